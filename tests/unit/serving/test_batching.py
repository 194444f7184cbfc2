from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from modelyard.serving.batching import Batcher


class Model:
    """Doubles x; says which batches it was given, and waits for `gate` in each."""

    def __init__(self, gate):
        self.gate = gate
        self.batches = []

    def predict(self, columns):
        self.batches.append(columns["x"].tolist())
        assert self.gate.wait(10)
        if -1.0 in columns["x"]:
            raise ValueError("minus one")
        return {"y": columns["x"] * 2}


def generation(model):
    return SimpleNamespace(served=SimpleNamespace(predict=model.predict))


async def ask(batcher, of, *values):
    return (await batcher.predict(of, {"x": np.array(values)}, len(values)))["y"].tolist()


def run(conversation):
    gate = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        return asyncio.run(conversation(Batcher(executor, 4), gate))


async def first_under_way(model):
    while not model.batches:
        await asyncio.sleep(0.001)


def test_what_waits_for_a_slow_model_is_predicted_together():
    async def conversation(batcher, gate):
        model = Model(gate)
        one = generation(model)
        tasks = [asyncio.ensure_future(ask(batcher, one, 1.0))]
        await first_under_way(model)
        tasks += [asyncio.ensure_future(ask(batcher, one, *values)) for values in ([2.0], [3.0, 4.0])]
        await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(*tasks) == [[2.0], [4.0], [6.0, 8.0]]
        assert model.batches == [[1.0], [2.0, 3.0, 4.0]]

    run(conversation)


def test_a_batch_never_crosses_generations_nor_the_limit_of_rows():
    async def conversation(batcher, gate):
        model, other = Model(gate), Model(gate)
        one, two = generation(model), generation(other)
        tasks = [asyncio.ensure_future(ask(batcher, one, 1.0))]
        await first_under_way(model)
        wanted = [(one, (2.0, 3.0)), (two, (4.0,)), (one, (5.0, 6.0, 7.0)), (two, (8.0,))]
        tasks += [asyncio.ensure_future(ask(batcher, of, *values)) for of, values in wanted]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*tasks)
        assert model.batches == [[1.0], [2.0, 3.0], [5.0, 6.0, 7.0]]
        assert other.batches == [[4.0, 8.0]]

    run(conversation)


def test_a_request_that_fails_fails_alone():
    async def conversation(batcher, gate):
        model = Model(gate)
        one = generation(model)
        tasks = [asyncio.ensure_future(ask(batcher, one, 1.0))]
        await first_under_way(model)
        tasks += [asyncio.ensure_future(ask(batcher, one, value)) for value in (2.0, -1.0, 3.0)]
        await asyncio.sleep(0)
        gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [answers[0], answers[1], answers[3]] == [[2.0], [4.0], [6.0]]
        with pytest.raises(ValueError, match="minus one"):
            raise answers[2]

    run(conversation)


def test_who_gave_up_is_not_predicted_for():
    async def conversation(batcher, gate):
        model = Model(gate)
        one = generation(model)
        first = asyncio.ensure_future(ask(batcher, one, 1.0))
        await first_under_way(model)
        second = asyncio.ensure_future(ask(batcher, one, 2.0))
        third = asyncio.ensure_future(ask(batcher, one, 3.0))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(first, third) == [[2.0], [6.0]]
        assert model.batches == [[1.0], [3.0]]

    run(conversation)
