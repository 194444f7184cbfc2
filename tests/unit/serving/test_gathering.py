"""Quick models: what came in one turn of the event loop is predicted at once; nobody waits for what has not come."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from modelyard.packages.golden import Golden
from modelyard.packages.table import Table
from modelyard.serving.batching import GATHERED_ROWS, Arrivals, Gathering
from modelyard.serving.packaged import _joinable


class Model:
    """Doubles x; says which batches it was given."""

    def __init__(self, number=1, *, joinable=True):
        self.number = number
        self.served = SimpleNamespace(predict=self.predict, joinable=joinable)
        self.batches = []

    def predict(self, columns):
        self.batches.append(columns["x"].tolist())
        if -1.0 in columns["x"]:
            raise ValueError("minus one")
        return {"y": columns["x"] * 2}


class Front:
    """Does with requests what a connection and the application do."""

    def __init__(self):
        self.arrivals = Arrivals()
        self.gathering = Gathering(self.arrivals)

    def come(self, model, *values, table=False):
        self.arrivals.coming += 1
        return asyncio.ensure_future(self._ask(model, values, table))

    async def _ask(self, model, values, table):
        self.arrivals.coming -= 1
        columns = Table(("x",), np.array([values]).T) if table else {"x": np.array(values)}
        if self.gathering.worth(model, columns, len(values)):
            outputs = await self.gathering.predict(model, columns, len(values))
        else:
            outputs = model.served.predict(columns)
        return outputs["y"].tolist()

    def come_for_something_else(self):
        async def ask():
            self.arrivals.coming -= 1

        self.arrivals.coming += 1
        return asyncio.ensure_future(ask())


@pytest.mark.parametrize("table", [False, True])
def test_what_came_together_is_predicted_together(table):
    async def conversation():
        front, model = Front(), Model()
        asked = [front.come(model, *values, table=table) for values in ([1.0], [2.0, 3.0], [4.0])]
        assert await asyncio.gather(*asked) == [[2.0], [4.0, 6.0], [8.0]]
        assert model.batches == [[1.0, 2.0, 3.0, 4.0]]
        assert await front.come(model, 5.0) == [10.0]
        assert model.batches[1:] == [[5.0]], "a request that came alone waits for nobody"

    asyncio.run(conversation())


def test_rows_and_tables_of_one_model_are_not_mixed():
    async def conversation():
        front, model = Front(), Model()
        asked = [front.come(model, 1.0), front.come(model, 2.0, table=True), front.come(model, 3.0)]
        assert await asyncio.gather(*asked) == [[2.0], [4.0], [6.0]]
        assert sorted(model.batches) == [[1.0, 3.0], [2.0]]

    asyncio.run(conversation())


def test_a_batch_never_crosses_generations():
    async def conversation():
        front, one, two = Front(), Model(1), Model(2)
        asked = [front.come(model, value) for model, value in ((one, 1.0), (two, 2.0), (one, 3.0))]
        assert await asyncio.gather(*asked) == [[2.0], [4.0], [6.0]]
        assert (one.batches, two.batches) == ([[1.0, 3.0]], [[2.0]])

    asyncio.run(conversation())


def test_generations_of_two_models_with_the_same_number_are_not_mixed():
    async def conversation():
        front, one, other = Front(), Model(1), Model(1)
        asked = [front.come(model, value) for model, value in ((one, 1.0), (other, 2.0), (one, 3.0), (other, 4.0))]
        assert await asyncio.gather(*asked) == [[2.0], [4.0], [6.0], [8.0]]
        assert (one.batches, other.batches) == ([[1.0, 3.0]], [[2.0, 4.0]])

    asyncio.run(conversation())


def test_many_rows_are_cut_and_large_requests_go_alone():
    async def conversation():
        front, model = Front(), Model()
        half, large = [1.0] * (GATHERED_ROWS // 2), [2.0] * GATHERED_ROWS
        asked = [front.come(model, *values) for values in (half, half, half, large, half)]
        await asyncio.gather(*asked)
        assert sorted(map(len, model.batches)) == [GATHERED_ROWS] * 3

    asyncio.run(conversation())


def test_what_fails_fails_alone():
    async def conversation():
        front, model = Front(), Model()
        answers = await asyncio.gather(
            *(front.come(model, value) for value in (1.0, -1.0, 2.0)), return_exceptions=True
        )
        assert [answers[0], answers[2]] == [[2.0], [4.0]]
        with pytest.raises(ValueError, match="minus one"):
            raise answers[1]

    asyncio.run(conversation())


def test_nobody_waits_for_whoever_comes_for_something_else():
    async def conversation():
        front, model = Front(), Model()
        asked = front.come(model, 1.0)
        other = front.come_for_something_else()
        assert await asyncio.wait_for(asked, 5) == [2.0]
        await other
        # Not even where one is counted that never comes.
        front.arrivals.coming += 1
        assert await asyncio.wait_for(front.come(model, 2.0), 5) == [4.0]

    asyncio.run(conversation())


def test_who_gave_up_is_not_predicted_for():
    async def conversation():
        front, model = Front(), Model()
        front.arrivals.coming += 1
        first, second = front.come(model, 1.0), front.come(model, 2.0)
        first.cancel()
        assert await second == [4.0]
        assert model.batches == [[2.0]]

    asyncio.run(conversation())


def test_a_model_whose_rows_depend_on_each_other_predicts_each_request_by_itself():
    async def conversation():
        front, model = Front(), Model(joinable=False)
        await asyncio.gather(*(front.come(model, value) for value in (1.0, 2.0)))
        assert model.batches == [[1.0], [2.0]]

    asyncio.run(conversation())


@pytest.mark.parametrize(
    ("predict", "joinable"),
    [
        (lambda x: x * 2, True),
        (lambda x: x + np.float32(len(x)) * 1e-7, False),
        (lambda x: x - x.mean(), False),
    ],
)
def test_rows_are_joined_only_where_the_samples_are_answered_the_same_to_the_last_bit(predict, joinable):
    x = np.arange(1, 9, dtype=np.float32)
    model = SimpleNamespace(predict_checked=lambda columns: {"y": predict(columns["x"])})
    assert _joinable(model, Golden({"x": x}, {})) is joinable
    assert not _joinable(model, Golden({"x": x[:1]}, {})), "one row tells nothing"
