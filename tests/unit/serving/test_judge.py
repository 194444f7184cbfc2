from __future__ import annotations

import os
import queue

import pytest

from modelyard.serving.board import Board
from modelyard.serving.faults import Faults
from modelyard.serving.judge import Judge, JudgeLimits, verdict
from modelyard.serving.logs import Log
from modelyard.serving.state import Committed, CommittedFile, Page
from modelyard.serving.stats import Observation, step_of
from modelyard.serving.wire import Observed

QUIET = Log("error", os.open(os.devnull, os.O_WRONLY))


def answers(requests: int, errors: int = 0, seconds: float = 0.001) -> Observation:
    return Observation(requests, errors, {step_of(seconds): requests})


@pytest.fixture
def stopped():
    return queue.SimpleQueue()


@pytest.fixture
def judge(tmp_path, stopped):
    page = Page.create()
    board = Board(CommittedFile(tmp_path), Committed(), page, Faults(), QUIET)
    judge = Judge(JudgeLimits(0.1, 0.5, 20), lambda *told: stopped.put(told), board, QUIET)
    judge.start()
    yield judge
    page.close()


@pytest.mark.parametrize(
    ("observation", "word"),
    [
        (answers(20), None),
        (answers(20, errors=2), None),
        (answers(20, errors=3), "errors"),
        (answers(19, errors=19), None),
        (answers(20, seconds=0.5), None),
        (answers(20, seconds=0.6), "p99"),
        (answers(19, seconds=0.6), None),
        (answers(0), None),
    ],
)
def test_a_verdict_falls_over_the_limits_and_never_by_too_few_answers(observation, word):
    reason = verdict(JudgeLimits(0.1, 0.5, 20), observation)
    assert (word in reason) if word else reason is None


def test_one_slow_answer_in_a_hundred_is_within_the_p99_and_two_are_not():
    for slow, falls in ((1, False), (2, True)):
        seen = answers(100 - slow) + answers(slow, seconds=2.0)
        assert (verdict(JudgeLimits(None, 0.5, 20), seen) is not None) is falls


def test_without_limits_nothing_is_stopped():
    assert verdict(JudgeLimits(None, None, 1), answers(100, errors=100, seconds=60)) is None


def test_observations_of_all_workers_count_together_and_a_role_is_stopped_once(judge, stopped):
    for _ in range(10):
        judge.observed(Observed("m", 2, "canary", answers(3, errors=1)))
    role, model, number, reason = stopped.get(timeout=5)
    assert (role, model, number) == ("canary", "m", 2)
    assert "7 of 21" in reason
    assert stopped.empty()


def test_generations_roles_and_models_are_judged_apart(judge, stopped):
    for slot, number, role in (("m", 2, "canary"), ("m", 3, "canary"), ("m", 3, "shadow"), ("n", 3, "canary")):
        judge.observed(Observed(slot, number, role, answers(19, errors=19)))
    assert stopped.empty()
    judge.observed(Observed("n", 3, "canary", answers(1)))
    assert stopped.get(timeout=5)[:3] == ("canary", "n", 3)


def test_a_role_that_begins_again_is_judged_anew(judge, stopped):
    judge.observed(Observed("m", 2, "canary", answers(19, errors=19)))
    judge.forget("canary", "m", 2)
    judge.observed(Observed("m", 2, "canary", answers(19)))
    assert judge.account("canary", "m", 2)[0].errors == 0
    assert stopped.empty()


def test_a_long_good_past_does_not_hide_that_all_answers_fail_now(judge, stopped, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    for _ in range(100):
        clock[0] += 1.0
        judge.observed(Observed("m", 2, "canary", answers(1000)))
    clock[0] += 120.0
    judge.observed(Observed("m", 2, "canary", answers(30, errors=30)))
    total, latest = judge.account("canary", "m", 2)
    assert (total.requests, latest.requests) == (100_030, 30)
    assert "30 of 30" in stopped.get(timeout=5)[3]


def test_what_can_not_be_stopped_now_is_condemned_again(judge, stopped, monkeypatch):
    tried = queue.SimpleQueue()

    def stop(*told):
        tried.put(told)
        if tried.qsize() == 1:
            raise OSError("The disk is full.")
        stopped.put(told)

    monkeypatch.setattr(judge, "_stop", stop)
    judge.observed(Observed("m", 2, "canary", answers(20, errors=20)))
    for _ in range(100):
        judge.observed(Observed("m", 2, "canary", answers(1, errors=1)))
        try:
            found = stopped.get(timeout=0.05)
        except queue.Empty:
            continue
        break
    assert found[:3] == ("canary", "m", 2)
