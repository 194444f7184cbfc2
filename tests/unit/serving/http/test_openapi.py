from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from modelyard.data import Field
from modelyard.packages.contract import Contract
from modelyard.packages.golden import Golden
from modelyard.serving.http.acumos import Acumos
from modelyard.serving.http.acumos_uploads import AcumosUploads
from modelyard.serving.http.openapi import OpenApi, Security, document_of
from modelyard.serving.http.plain import Plain
from modelyard.serving.loading import Served
from modelyard.serving.route import Route
from modelyard.serving.slots import Generation, Slots
from modelyard.serving.spec import Limits
from modelyard.serving.state import GenerationRecord, Page

COLUMNS = {"x": np.ones(2)}


def generation(number: int) -> Generation:
    contract = Contract((Field("x", "float64"),), (Field("x", "float64"),))
    served = Served(contract, lambda columns: columns, {}, {}, golden=Golden(COLUMNS, COLUMNS))
    return Generation(GenerationRecord(number, "m", f"v{number}", "digest", "/nowhere", 0.0), served)


def test_a_text_is_made_once_for_a_generation_and_anew_for_the_next():
    slots = Slots(Page.create())
    inference = SimpleNamespace(slots=slots, slot=slots.__getitem__)
    openapi = OpenApi(inference, Plain(inference).routes, Security())

    async def texts() -> tuple[bytes, ...]:
        request = SimpleNamespace(parameters=("m",))
        return tuple([(await answer(request)).body for answer in (openapi.all, openapi.one, openapi.page)])

    def commit(number: int) -> None:
        slots.hold("m", 0, generation(number))
        slots.page.words[slots["m"].word] = Route(number, 0, 0).pack()

    commit(1)
    first = asyncio.run(texts())
    assert len(set(first)) == 3
    again = asyncio.run(texts())
    assert all(one is other for one, other in zip(first, again, strict=True)), "made again for the same generation"
    commit(2)
    assert not set(asyncio.run(texts())) & set(first)


def test_every_form_of_acumos_is_told_of_by_the_parts_that_it_needs():
    slots = Slots(Page.create())
    inference = SimpleNamespace(slots=slots, slot=slots.__getitem__, limits=Limits())
    routes = [*Acumos(inference).routes, *AcumosUploads(inference, None, Path("/nowhere"), explicit=True).routes]
    described = document_of(routes, (), Security())["paths"]
    forms = 0
    for path, operations in described.items():
        for method in operations.keys() & {"put", "post"}:
            content = operations[method]["requestBody"]["content"]
            if "multipart/form-data" in content:
                assert content["multipart/form-data"]["schema"]["required"], path
                forms += 1
    assert forms >= 20
