"""The review rules hold whatever tags there are, in whatever order they are read."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.center.events import (
    Approved,
    Event,
    HoldLifted,
    Registered,
    Rejected,
    Released,
    RolledBack,
    Unreadable,
    tag_name_of,
)
from modelyard.center.people import People, Person
from modelyard.center.policy import Policy
from modelyard.center.registry import Registry, State
from modelyard.center.rules import fold, rollback_target
from modelyard.errors import InputError, NotFoundError


def person(name: str, *roles: str, until: int = 0) -> Person:
    return Person(name.title(), f"{name}@example.org", roles, (f"key-{name}",), (f"SHA256:{name}",), until)


PEOPLE = People(
    (
        person("ann", "data_scientist"),
        person("bob", "data_scientist", "manager"),
        person("max", "manager"),
        person("mia", "manager"),
        person("dev", "developer"),
    )
)
POLICY = Policy(approvals=1, require={"accuracy": 0.9, "log_loss": 0.5}, environments=("dev", "staging", "production"))
GOOD = {"accuracy": 0.95, "log_loss": 0.1}


class Story:
    """Writes tags one after another, as a test's story goes."""

    def __init__(self, policy: Policy = POLICY, people: People = PEOPLE) -> None:
        self.policy, self.people = policy, people
        self.events: list[Event | Unreadable] = []
        self.number = 0

    def _add(self, kind: type[Event], who: str, version: str, **more: Any) -> Story:
        if kind is not Registered:
            self.number += 1
        fields: dict[str, Any] = {
            "model": "digits",
            "version": version,
            "package": f"package-{version}",
            "commit": f"commit-{version}",
            "actor": f"{who}@example.org",
            "tagger": f"{who}@example.org",
            "signer": f"SHA256:{who}",
            "number": 0 if kind is Registered else self.number,
            "time": 1000 + len(self.events),
        }
        event = kind(**({"id": f"object-{len(self.events)}"} | fields | more))
        self.events.append(msgspec.structs.replace(event, tag=tag_name_of(event)))
        return self

    def submit(self, version: str = "1.0.0", who: str = "ann", **more: Any) -> Story:
        return self._add(Registered, who, version, **({"metrics": GOOD} | more))

    def approve(self, version: str = "1.0.0", who: str = "max", **more: Any) -> Story:
        return self._add(Approved, who, version, **more)

    def reject(self, version: str = "1.0.0", who: str = "max", **more: Any) -> Story:
        return self._add(Rejected, who, version, **more)

    def release(self, version: str = "1.0.0", to: str = "dev", who: str = "max", **more: Any) -> Story:
        return self._add(Released, who, version, **({"environment": to} | more))

    def roll_back(self, version: str, replaces: str, at: str = "dev", who: str = "max") -> Story:
        return self._add(RolledBack, who, version, environment=at, replaces=replaces)

    def lift(self, version: str, at: str = "dev", who: str = "max") -> Story:
        return self._add(HoldLifted, who, version, environment=at)

    @property
    def registry(self) -> Registry:
        return fold(self.events, self.policy, self.people)

    def state(self, version: str = "1.0.0") -> State:
        return self.registry.version("digits", version).state

    def live(self, at: str = "dev") -> str | None:
        live = self.registry.live("digits", at)
        return live.version if live else None

    def refused(self) -> str:
        """Why the last tag does not count."""
        assert self.events
        tag = self.events[-1].tag
        return next(problem.what for problem in self.registry.problems if problem.tag == tag)


def live_story() -> Story:
    """Two versions, one after the other live in dev."""
    story = Story().submit("1.0.0").approve("1.0.0").release("1.0.0")
    return story.submit("1.1.0").approve("1.1.0").release("1.1.0")


def test_a_submitted_version_is_new_and_an_approved_one_approved() -> None:
    assert Story().submit().state() is State.NEW
    story = Story().submit().approve()
    assert (story.state(), story.registry.problems) == (State.APPROVED, ())


def test_only_a_data_scientist_or_manager_submits() -> None:
    assert "may not submit" in Story().submit(who="dev").refused()
    assert Story().submit(who="max").state() is State.NEW


def test_only_a_listed_role_approves() -> None:
    story = Story().submit().approve(who="dev")
    assert story.state() is State.NEW
    assert "has the role developer and may not approve v1.0.0: that takes manager" in story.refused()


def test_nobody_approves_what_they_submitted() -> None:
    story = Story().submit(who="bob").approve(who="bob")
    assert story.state() is State.NEW
    assert "submitted v1.0.0" in story.refused()


def test_as_many_different_people_must_approve_as_the_policy_asks_for() -> None:
    story = Story(msgspec.structs.replace(POLICY, approvals=2)).submit().approve(who="max")
    assert story.state() is State.NEW
    assert "has approved v1.0.0 already" in story.approve(who="max").refused()
    assert story.state() is State.NEW
    assert story.approve(who="mia").state() is State.APPROVED


def test_a_policy_without_approvals_approves_what_passes_its_gates() -> None:
    policy = msgspec.structs.replace(POLICY, approvals=0)
    assert Story(policy).submit().state() is State.APPROVED
    assert Story(policy).submit(metrics={"accuracy": 0.1, "log_loss": 0.1}).state() is State.NEW


def test_an_approved_version_takes_more_approvals() -> None:
    story = Story().submit().approve(who="max").approve(who="mia")
    assert story.registry.problems == ()
    assert len(story.registry.version("digits", "v1.0.0").approvals) == 2


def test_a_rejection_is_final() -> None:
    story = Story().submit().reject()
    assert story.state() is State.REJECTED
    assert "final" in story.approve(who="mia").refused()
    assert "was rejected" in story.release().refused()
    assert "already" in story.reject(who="mia").refused()
    assert story.state() is State.REJECTED


def test_an_approved_version_can_not_be_rejected() -> None:
    story = Story().submit().approve().reject(who="mia")
    assert story.state() is State.APPROVED
    assert "is approved" in story.refused()


@pytest.mark.parametrize(
    ("metrics", "what"),
    [
        ({"accuracy": 0.89, "log_loss": 0.1}, "accuracy is 0.89; the policy asks for at least 0.9"),
        ({"accuracy": 0.95, "log_loss": 0.51}, "log_loss is 0.51; the policy asks for at most 0.5"),
        ({"accuracy": 0.95}, "asks for log_loss, and the registration carries none"),
        ({"accuracy": float("nan"), "log_loss": 0.1}, "accuracy is nan"),
    ],
)
def test_a_version_that_misses_a_gate_can_not_be_approved(metrics: dict[str, float], what: str) -> None:
    story = Story().submit(metrics=metrics).approve()
    assert story.state() is State.NEW
    assert what in story.refused()


def test_a_metric_exactly_at_its_gate_passes() -> None:
    assert Story().submit(metrics={"accuracy": 0.9, "log_loss": 0.5}).approve().state() is State.APPROVED


def test_only_an_approved_version_is_released() -> None:
    story = Story().submit().release()
    assert story.live() is None
    assert "1 of 1 approvals are missing" in story.refused()


def test_only_managers_release_roll_back_and_lift() -> None:
    story = Story().submit().approve().release(who="ann")
    assert story.live() is None
    assert "may not release" in story.refused()
    assert "may not roll back dev" in live_story().roll_back("1.0.0", "1.1.0", who="ann").refused()
    assert "may not lift" in live_story().roll_back("1.0.0", "1.1.0").lift("1.0.0", who="dev").refused()


def test_environments_are_passed_in_order() -> None:
    story = Story().submit().approve().release(to="staging")
    assert "has not been live in dev" in story.refused()
    story.release(to="dev").release(to="production")
    assert "has not been live in staging" in story.refused()
    story.release(to="staging").release(to="production")
    assert [story.live(place) for place in POLICY.environments] == ["1.0.0"] * 3


def test_a_version_may_go_on_although_a_newer_one_is_live_before_it() -> None:
    assert live_story().release("1.0.0", to="staging").live("staging") == "1.0.0"


def test_an_unknown_environment_is_refused() -> None:
    assert "no environment 'moon'" in Story().submit().approve().release(to="moon").refused()


def test_releasing_what_is_live_is_refused() -> None:
    assert "is live in dev already" in Story().submit().approve().release().release(who="mia").refused()


def test_a_rollback_puts_the_version_before_live_and_holds_the_environment() -> None:
    story = live_story().roll_back("1.0.0", "1.1.0")
    assert story.live() == "1.0.0"
    assert story.registry.models["digits"].holds["dev"].withdrawn == "1.1.0"
    assert "is held since max@example.org" in story.release("1.1.0").refused()
    story.lift("1.0.0", who="mia").release("1.1.0")
    assert (story.live(), dict(story.registry.models["digits"].holds)) == ("1.1.0", {})


def test_what_was_rolled_back_does_not_go_on_to_the_next_environment() -> None:
    story = live_story().roll_back("1.0.0", "1.1.0").release("1.1.0", to="staging")
    assert "was rolled back there" in story.refused()
    assert story.release("1.0.0", to="staging").live("staging") == "1.0.0"


def test_a_rollback_can_go_further_back_while_the_environment_is_held() -> None:
    story = live_story().submit("1.2.0").approve("1.2.0").release("1.2.0")
    story.roll_back("1.1.0", "1.2.0").roll_back("1.0.0", "1.1.0")
    assert story.live() == "1.0.0"
    assert rollback_target(story.registry.models["digits"], "dev") is None


def test_a_rollback_to_a_named_version_forgets_what_came_after_it() -> None:
    story = live_story().submit("1.2.0").approve("1.2.0").release("1.2.0").roll_back("1.0.0", "1.2.0")
    assert story.registry.models["digits"].trails["dev"] == ("1.0.0",)


def test_a_version_that_was_never_live_is_no_target_of_a_rollback() -> None:
    story = live_story().submit("1.2.0").approve("1.2.0").roll_back("1.2.0", "1.1.0")
    assert "was not live in dev" in story.refused()
    assert "was not live" in Story().submit().approve().roll_back("1.0.0", "1.0.0").refused()


def test_a_rollback_from_what_is_not_live_any_more_is_refused() -> None:
    assert "v1.1.0 is live there, not v1.0.0" in live_story().roll_back("1.0.0", "1.0.0").refused()


def test_nothing_is_lifted_where_nothing_is_held() -> None:
    assert "dev is not held" in live_story().lift("1.1.0").refused()


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"signer": "", "fault": "The signature is not valid: it is cut off."}, "cut off"),
        ({"signer": ""}, "not signed"),
        ({"signer": "SHA256:eve"}, "nobody in people.yaml has that key"),
        ({"actor": "mia@example.org"}, "in the name of mia@example.org"),
        ({"tagger": "mia@example.org"}, "in the name of mia@example.org"),
        ({"package": "another"}, "another package"),
        ({"commit": "another"}, "another commit"),
        ({"version": "9.9.9"}, "no valid version v9.9.9"),
    ],
)
def test_a_forged_tag_is_told_and_does_not_count(more: dict[str, Any], what: str) -> None:
    story = Story().submit().approve(**more)
    assert story.state() is State.NEW
    assert what in story.refused()


def test_a_decision_about_a_version_whose_registration_is_forged_does_not_count() -> None:
    story = Story().submit(signer="").approve()
    assert story.registry.models == {}
    assert len(story.registry.problems) == 2


def test_who_left_decides_nothing_after_that_day_and_keeps_what_was_decided_before() -> None:
    people = People((person("ann", "data_scientist"), person("max", "manager", until=1002)))
    assert Story(people=people).submit().approve().state() is State.APPROVED
    assert "after leaving" in Story(people=people).submit().submit("1.1.0").approve().refused()


def test_who_was_removed_has_no_say_not_even_over_the_past() -> None:
    story = live_story()
    story.people = People(tuple(person for person in PEOPLE.people if person.name != "Max"))
    assert (story.live(), story.state()) == (None, State.NEW)


def test_a_missing_number_is_told() -> None:
    story = Story().submit().approve(who="mia").approve().release()
    del story.events[1]
    (problem,) = story.registry.problems
    assert "No tag of digits has the number 1: it was deleted" in problem.what


def test_of_two_tags_with_one_number_the_rejection_comes_first() -> None:
    story = Story().submit().approve()
    story.number -= 1
    assert story.reject(who="mia").state() is State.REJECTED


def test_two_models_do_not_touch_each_other() -> None:
    story = Story().submit().approve().release()
    other = Story().submit(model="letters").approve(model="letters")
    registry = fold([*story.events, *other.events], POLICY, PEOPLE)
    assert registry.live("digits", "dev") is not None
    assert registry.live("letters", "dev") is None
    assert registry.problems == ()


def test_each_model_can_have_its_own_policy() -> None:
    other = Story().submit(model="letters", metrics={}).approve(model="letters")
    registry = fold([*Story().submit().events, *other.events], {"digits": POLICY, "letters": Policy()}, PEOPLE)
    assert registry.version("letters", "1.0.0").state is State.APPROVED


def test_a_name_nearly_right_is_answered_with_the_right_one() -> None:
    registry = Story().submit().registry
    with pytest.raises(NotFoundError, match="Did you mean digits"):
        registry.model("digts")
    with pytest.raises(NotFoundError, match=r"Did you mean v1\.0\.0"):
        registry.version("digits", "1.0.1")


@pytest.mark.parametrize(
    "wrong",
    [
        {"environments": ("approved",)},
        {"environments": ("a b",)},
        {"environments": ("a", "a")},
        {"approvals": -1},
        {"roles": ()},
    ],
)
def test_a_policy_that_can_not_be_kept_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Policy(**wrong)


# Any tags at all: the properties that make the state safe to act upon.

VERSIONS = ("1.0.0", "1.1.0", "2.0.0")
PLACES = (*POLICY.environments, "moon")
people = st.sampled_from(["ann", "bob", "max", "mia", "dev", "eve"])
submitters = st.sampled_from(["ann", "ann", "ann", "bob", "max", "dev"])
deciders = st.sampled_from(["max", "mia"])
versions = st.sampled_from(VERSIONS)
kinds = st.sampled_from([Approved, Rejected, Released, RolledBack, HoldLifted])
policies = st.sampled_from(
    [POLICY, msgspec.structs.replace(POLICY, approvals=2), msgspec.structs.replace(POLICY, approvals=0)]
)


def anything(draw: st.DrawFn, story: Story) -> None:
    kind, version, name, place = draw(kinds), draw(versions), draw(people), draw(st.sampled_from(PLACES))
    more = {} if kind in (Approved, Rejected) else {"environment": place}
    if kind is RolledBack:
        more["replaces"] = draw(versions)
    story._add(kind, name, version, **more)


def something_sensible(draw: st.DrawFn, story: Story) -> None:
    """Go on as people do: approve what is new, pass it on, roll back, lift."""
    model = story.registry.models.get("digits")
    version = model.versions.get(draw(versions)) if model else None
    place = draw(st.sampled_from(story.policy.environments))
    if model is None or version is None:
        return
    if version.state is State.NEW:
        story.approve(version.version, who=draw(deciders))
    elif place in model.holds and draw(st.booleans()):
        story.lift(model.live[place].version, at=place, who=draw(deciders))
    elif len(model.trails.get(place, ())) > 1 and draw(st.booleans()):
        story.roll_back(draw(st.sampled_from(model.trails[place])), model.live[place].version, at=place)
    else:
        ahead = [name for name in story.policy.environments if name not in version.passed]
        story.release(version.version, to=(ahead or [place])[0], who=draw(deciders))


@st.composite
def written_stories(draw: st.DrawFn) -> Story:
    story = Story(draw(policies))
    for version in draw(st.sampled_from([VERSIONS, VERSIONS[:2], VERSIONS[1:], VERSIONS[:1], ()])):
        accuracy = draw(st.sampled_from([0.95, 0.95, 0.95, 0.5]))
        story.submit(version, who=draw(submitters), metrics={"accuracy": accuracy, "log_loss": 0.1})
    for _ in range(draw(st.sampled_from([30, 12, 4]))):
        draw(st.sampled_from([something_sensible, something_sensible, something_sensible, anything]))(draw, story)
    return story


stories = written_stories()


@settings(max_examples=200, deadline=None)
@given(stories, st.randoms(use_true_random=False))
def test_the_order_of_reading_changes_nothing(story: Story, chance: random.Random) -> None:
    shuffled = list(story.events)
    chance.shuffle(shuffled)
    assert fold(shuffled, story.policy, PEOPLE) == story.registry


@settings(max_examples=200, deadline=None)
@given(stories)
def test_an_illegal_event_never_changes_the_state(story: Story) -> None:
    registry = story.registry
    accepted = [event for model in registry.models.values() for event in model.events]
    again = fold(accepted, story.policy, PEOPLE)
    assert again.models == registry.models
    assert not [problem for problem in again.problems if "#*#" not in problem.tag]


@settings(max_examples=300, deadline=None)
@given(stories)
def test_no_tags_lead_to_an_illegal_state(story: Story) -> None:
    managers = {person.email for person in PEOPLE.people if "manager" in person.roles}
    for model in story.registry.models.values():
        for version in model.versions.values():
            deciders = [approval.by for approval in version.approvals]
            assert len(set(deciders)) == len(deciders)
            assert managers.issuperset(deciders)
            assert version.submitter not in deciders
            assert not (version.state is State.REJECTED and len(deciders) >= max(story.policy.approvals, 1))
            if version.state is State.APPROVED:
                assert len(deciders) >= story.policy.approvals
                assert story.policy.unmet(version.metrics) is None
        for place, live in model.live.items():
            assert model.versions[live.version].state is State.APPROVED
            assert model.trails[place][-1] == live.version
        seen: set[tuple[str, str]] = set()
        held: set[str] = set()
        for event in model.events:
            if isinstance(event, Released):
                assert event.environment not in held
                at = story.policy.environments.index(event.environment)
                assert at == 0 or (event.version, story.policy.environments[at - 1]) in seen
                seen.add((event.version, event.environment))
            elif isinstance(event, RolledBack):
                assert (event.version, event.environment) in seen
                held.add(event.environment)
            elif isinstance(event, HoldLifted):
                held.remove(event.environment)
        assert set(model.holds) == held


def test_the_generated_stories_reach_releases_and_rollbacks() -> None:
    """The properties above would hold emptily if no generated story came far."""
    reached: set[str] = set()

    @settings(max_examples=400, deadline=None, database=None, derandomize=True)
    @given(stories)
    def look(story: Story) -> None:
        for model in story.registry.models.values():
            reached.update(type(event).__name__ for event in model.events)
            reached.update(model.live)

    look()
    assert {"Registered", "Approved", "Rejected", "Released", "RolledBack", "HoldLifted", "dev", "staging"} <= reached
