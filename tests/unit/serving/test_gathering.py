"""Quick models: what came in one turn of the event loop is predicted at once; nobody waits for what has not come."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from modelyard.errors import ContractError
from modelyard.packages.golden import Golden
from modelyard.packages.table import Table
from modelyard.serving.batching import GATHERED_ROWS, TOGETHER, Gathering, answer_together
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


class Question:
    """Asks a model for the doubles of some values; says in which order the steps were taken."""

    def __init__(self, model, *values, table=False, steps=None):
        self.generation = model
        self.rows = len(values)
        self._values = values
        self._table = table
        self._steps = [] if steps is None else steps

    def read(self):
        self._steps.append("read")
        if not self._values:
            raise ContractError("There is no row.")
        return Table(("x",), np.array([self._values]).T) if self._table else {"x": np.array(self._values)}

    def write(self, columns, outputs):
        self._steps.append("write")
        assert len(columns["x"]) == len(outputs["y"])
        if 1313.0 in self._values:
            raise ValueError("thirteen")
        return outputs["y"].tolist()

    def failed(self, error):
        return RuntimeError(f"failed: {error}")


@pytest.mark.parametrize("table", [False, True])
def test_what_came_together_is_predicted_together(table):
    model, steps = Model(), []
    asked = [Question(model, *values, table=table, steps=steps) for values in ([1.0], [2.0, 3.0], [4.0])]
    assert answer_together(asked) == [[2.0], [4.0, 6.0], [8.0]]
    assert model.batches == [[1.0, 2.0, 3.0, 4.0]]
    assert steps == ["read"] * 3 + ["write"] * 3
    assert answer_together([Question(model, 5.0, table=table)]) == [[10.0]]


def test_rows_and_tables_of_one_model_are_not_mixed():
    model = Model()
    asked = [Question(model, 1.0), Question(model, 2.0, table=True), Question(model, 3.0)]
    assert answer_together(asked) == [[2.0], [4.0], [6.0]]
    assert sorted(model.batches) == [[1.0, 3.0], [2.0]]


def test_a_batch_never_crosses_generations():
    one, two = Model(1), Model(2)
    asked = [Question(model, value) for model, value in ((one, 1.0), (two, 2.0), (one, 3.0))]
    assert answer_together(asked) == [[2.0], [4.0], [6.0]]
    assert (one.batches, two.batches) == ([[1.0, 3.0]], [[2.0]])


def test_generations_of_two_models_with_the_same_number_are_not_mixed():
    one, other = Model(1), Model(1)
    asked = [Question(model, value) for model, value in ((one, 1.0), (other, 2.0), (one, 3.0), (other, 4.0))]
    assert answer_together(asked) == [[2.0], [4.0], [6.0], [8.0]]
    assert (one.batches, other.batches) == ([[1.0, 3.0]], [[2.0, 4.0]])


def test_a_question_whose_reading_finds_another_generation_is_answered_by_that_one():
    before, live = Model(1), Model(2)

    class Old(Question):
        def read(self):
            self.generation = before
            return super().read()

    assert answer_together([Question(live, 1.0), Old(live, 2.0), Question(live, 3.0)]) == [[2.0], [4.0], [6.0]]
    assert (before.batches, live.batches) == ([[2.0]], [[1.0, 3.0]])


def test_many_rows_are_cut_and_large_requests_go_alone():
    model = Model()
    half, large = [1.0] * (GATHERED_ROWS // 2), [2.0] * (GATHERED_ROWS + 1)
    answers = answer_together([Question(model, *values) for values in (half, half, half, large, half)])
    assert [len(answer) for answer in answers] == [32, 32, 32, 65, 32]
    assert [len(batch) for batch in model.batches] == [64, 32, 65, 32]


def test_what_fails_fails_alone():
    model = Model()
    answers = answer_together([Question(model, *values) for values in ([1.0], [-1.0], [], [1313.0], [2.0])])
    assert [answers[0], answers[4]] == [[2.0], [4.0]]
    assert [str(error) for error in answers[1:4]] == ["failed: minus one", "There is no row.", "thirteen"]


def test_a_model_whose_rows_depend_on_each_other_predicts_each_request_by_itself():
    model = Model(joinable=False)
    assert answer_together([Question(model, value) for value in (1.0, 2.0)]) == [[2.0], [4.0]]
    assert model.batches == [[1.0], [2.0]]


def test_what_is_asked_in_one_turn_of_the_loop_is_gathered_and_the_next_turn_is_not_waited_for():
    async def conversation():
        gathering, model = Gathering(), Model()
        asked = [asyncio.ensure_future(gathering.answer(Question(model, value))) for value in (1.0, 2.0, -1.0)]
        first, second, third = await asyncio.gather(*asked, return_exceptions=True)
        assert (first, second, str(third)) == ([2.0], [4.0], "failed: minus one")
        assert model.batches[0] == [1.0, 2.0, -1.0]
        assert await gathering.answer(Question(model, 5.0)) == [10.0]
        assert model.batches[-1] == [5.0]

    asyncio.run(conversation())


def test_who_gave_up_is_not_predicted_for():
    async def conversation():
        gathering, model = Gathering(), Model()
        first, second = (asyncio.ensure_future(gathering.answer(Question(model, value))) for value in (1.0, 2.0))
        # Both have asked, and nothing is answered before the next turn.
        await asyncio.sleep(0)
        first.cancel()
        assert await second == [4.0]
        assert model.batches == [[2.0]]

    asyncio.run(conversation())


def test_more_than_can_be_answered_at_once_are_answered_in_several_goes():
    async def conversation():
        gathering, model = Gathering(), Model()
        values = [float(value) for value in range(TOGETHER + 1)]
        answers = await asyncio.gather(*(gathering.answer(Question(model, value)) for value in values))
        assert answers == [[2 * value] for value in values]
        assert model.batches == [values[:TOGETHER], values[TOGETHER:]]

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
