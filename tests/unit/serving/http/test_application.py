"""What came in one turn of the event loop is answered together, each request exactly once and as if it were alone."""

from __future__ import annotations

import asyncio
import json

import pytest

from modelyard.data import Field
from modelyard.packages.codecs.json import JsonCodec, encode
from modelyard.packages.contract import Contract
from modelyard.serving.batching import TOGETHER
from modelyard.serving.http.application import Application
from modelyard.serving.http.exchange import Exchange
from modelyard.serving.http.plain import Plain
from modelyard.serving.inference import Inference
from modelyard.serving.loading import JSON, Served
from modelyard.serving.logs import Log
from modelyard.serving.metrics import Metrics
from modelyard.serving.slots import Generation, Slots
from modelyard.serving.spec import Limits
from modelyard.serving.state import GenerationRecord, Page
from modelyard.serving.tracing import Trace

PREDICT = "/v1/models/m/predict"
CONTRACT = Contract((Field("x", "float32"),), (Field("y", "float32"),))


class Way:
    """Takes answers, and says of each exchange how it ended."""

    def __init__(self):
        self.ended = []

    def want(self, exchange):
        """More of a body is wanted; the test sends it."""

    def answer(self, exchange, status, headers, body, own):
        named = dict([*headers, *own])
        if "\n" in "".join(named.values()):
            raise ValueError("a header has a line break")
        self.ended.append((exchange, status, named, body))

    def abandon(self, exchange):
        self.ended.append((exchange, 0, {}, b""))


class Tracer:
    """Says how its traces ended."""

    def __init__(self):
        self.ended = []

    def begin(self, name, attributes, traceparent, tracestate, of="request"):
        tracer = self

        class Told(Trace):
            def end(self, status):
                tracer.ended.append((name, status))

        return Told()

    def close(self):
        """There is nothing to send."""


class Front:
    """An application with a model m that doubles, and what it was asked together."""

    def __init__(self, version="v1"):
        self.page, self.batches, self.way = Page.create(), [], Way()
        self.slots = Slots(self.page)
        log = Log("error")
        self.inference = Inference(self.slots, Limits(in_flight=TOGETHER), Metrics(self.page, self.slots, 1), log, 0, 1)
        self.application = Application(Plain(self.inference).routes, self.inference, 0)
        served = Served(
            contract=CONTRACT,
            predict=self.predict,
            decoders={JSON: JsonCodec(CONTRACT).decode},
            encoders={JSON: lambda outputs: b'{"rows":' + encode(outputs) + b"}"},
            joinable=True,
        )
        self.generation = Generation(GenerationRecord(1, "m", version, "p", "/nowhere"), served)
        self.slots.hold("m", 0, self.generation)
        self.page.words[self.page.slot_word(0)] = self.page.words[Page.READY] = 1

    def predict(self, columns):
        self.batches.append(columns["x"].tolist())
        return {"y": columns["x"] * 2}

    def exchange(self, body, path=PREDICT, method="POST", **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        exchange = Exchange(self.way, method, path, "", {"content-length": str(len(body)), **named})
        if body:
            exchange.add(body)
            exchange.finish()
        return exchange

    def ask(self, *exchanges):
        """Answer them in one turn; return status and body, or None for what is not answered yet."""

        async def turn():
            self.application(exchanges)
            at_once = len(self.way.ended)
            await asyncio.sleep(0.05)
            return at_once

        self.at_once = asyncio.run(turn())
        ended = {id(exchange): (status, body) for exchange, status, _, body in self.way.ended}
        assert len(ended) == len(self.way.ended), "each is answered once"
        return [ended.get(id(exchange)) for exchange in exchanges]

    def idle(self):
        return self.page.in_flight(1) == self.generation.in_flight == 0


@pytest.fixture
def front(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    return Front()


def rows(*values):
    return json.dumps({"rows": [{"x": value} for value in values]}).encode()


def answers(told):
    return [[row["y"] for row in json.loads(body)["rows"]] if status == 200 else status for status, body in told]


def test_a_turn_is_predicted_at_once_and_each_has_its_own_answer(front):
    told = front.ask(*(front.exchange(rows(*values)) for values in ([1.0], [2.0, 3.0], [4.0])))
    assert answers(told) == [[2.0], [4.0, 6.0], [8.0]]
    assert (front.at_once, front.batches) == (3, [[1.0, 2.0, 3.0, 4.0]])
    ids = {named["x-request-id"] for _, _, named, _ in front.way.ended}
    assert len(ids) == 3
    assert {named["x-model-generation"] for _, _, named, _ in front.way.ended} == {"1"}
    assert front.idle()


def test_what_is_wrong_with_some_is_told_to_them_alone(front):
    told = front.ask(
        front.exchange(rows(1.0)),
        front.exchange(b'{"rows": [{"x": "one"}]}'),
        front.exchange(b"{", content_type="application/json"),
        front.exchange(rows(2.0), path="/nothing"),
        front.exchange(rows(2.0), method="DELETE"),
        front.exchange(rows(2.0), path="/v1/models/n/predict"),
        front.exchange(rows(2.0), content_type="image/png"),
        front.exchange(rows(2.0), x_request_timeout="soon"),
        front.exchange(rows(3.0), x_request_timeout="5"),
    )
    assert answers(told) == [[2.0], 422, 400, 404, 405, 404, 415, 400, [6.0]]
    assert front.batches == [[1.0, 3.0]]
    assert front.idle()


def test_more_than_are_answered_at_once_are_all_answered_and_never_count_as_too_many(front):
    values = [float(value) for value in range(2 * TOGETHER + 1)]
    told = front.ask(*(front.exchange(rows(value)) for value in values))
    assert answers(told) == [[2 * value] for value in values]
    assert [len(batch) for batch in front.batches] == [TOGETHER, TOGETHER, 1]


def test_a_body_that_has_not_come_holds_up_nobody(front):
    slow = front.exchange(b"")
    quick = front.exchange(rows(1.0))

    async def turn():
        front.application([slow, quick])
        assert [exchange for exchange, *_ in front.way.ended] == [quick]
        await asyncio.sleep(0)
        slow.add(rows(2.0))
        slow.finish()
        await asyncio.sleep(0.05)

    asyncio.run(turn())
    assert answers([(status, body) for _, status, _, body in front.way.ended]) == [[2.0], [4.0]]
    assert front.idle()


def test_an_answer_that_cannot_be_sent_ends_its_own_request_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    front = Front(version="v1\nset-cookie: a")
    told = front.ask(front.exchange(rows(1.0)), front.exchange(b"", path="/v1/models", method="GET"))
    assert (told[0], told[1][0]) == ((0, b""), 200)
    assert front.idle()


def test_traced_requests_are_answered_together_and_each_trace_ends_once(front):
    front.inference.tracer = tracer = Tracer()
    told = front.ask(front.exchange(rows(1.0)), front.exchange(b"{"), front.exchange(rows(2.0)))
    assert answers(told) == [[2.0], 400, [4.0]]
    assert front.batches == [[1.0, 2.0]]
    name = "POST /v1/models/{name}/predict"
    assert sorted(tracer.ended) == [(name, 200), (name, 200), (name, 400)]
