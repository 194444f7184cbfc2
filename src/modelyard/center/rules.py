"""The review rules: who may do what when, and the fold of events into a state. Pure.

A command asks the same `judge` before it makes a tag that the fold asks before a tag counts, so what was accepted
when it was done is accepted when it is read, and what a tag made by hand claims is held to the same rules.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from modelyard.center.events import Approved, Event, HoldLifted, Registered, Rejected, Released, RolledBack, Unreadable
from modelyard.center.people import People, Person
from modelyard.center.policy import Policies, Policy, policy_for
from modelyard.center.registry import Decision, Hold, Ignored, Live, Model, Registry, State, VersionState
from modelyard.center.versions import order

__all__ = [
    "Refusal",
    "SUBMITTERS",
    "fold",
    "judge",
    "may_approve",
    "may_lift",
    "may_reject",
    "may_release",
    "may_roll_back",
    "may_submit",
    "rollback_target",
    "who",
]

SUBMITTERS = ("data_scientist", "manager")
"""A person with one of these roles may submit."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something may not be done, and what to do instead."""

    what: str
    remedy: str


def may_submit(person: Person) -> Refusal | None:
    """Say why a person may not submit a version, or None."""
    return None if _has_role(person, SUBMITTERS) else _lacks_role(person, SUBMITTERS, "submit a version")


def may_approve(version: VersionState, person: Person, policy: Policy) -> Refusal | None:
    """Say why a person may not approve a version, or None.

    An approved version takes more approvals, so that it stays approved when one approver leaves.
    """
    if not _has_role(person, policy.roles):
        return _lacks_role(person, policy.roles, f"approve v{version.version}")
    if version.state is State.REJECTED:
        return Refusal(f"v{version.version} was rejected, and that is final.", "Submit it again as a new version.")
    if _same(version.submitter, person.email):
        return Refusal(
            f"{person.email} submitted v{version.version} and can't approve it.",
            f"Ask another person with the role {_any(policy.roles)}.",
        )
    if any(_same(approval.by, person.email) for approval in version.approvals):
        return Refusal(f"{person.email} has approved v{version.version} already.", "Ask another person.")
    if unmet := policy.unmet(version.metrics):
        return Refusal(f"v{version.version} misses a gate: {unmet}", "Submit a version that meets it.")
    return None


def may_reject(version: VersionState, person: Person, policy: Policy) -> Refusal | None:
    """Say why a person may not reject a version, or None."""
    if not _has_role(person, policy.roles):
        return _lacks_role(person, policy.roles, f"reject v{version.version}")
    if version.state is State.REJECTED:
        return Refusal(f"v{version.version} was rejected already.", "There is nothing left to do.")
    if version.state is State.APPROVED:
        return Refusal(f"v{version.version} is approved.", "Roll it back where it is live.")
    return None


def may_release(
    model: Model, version: VersionState, environment: str, person: Person, policy: Policy
) -> Refusal | None:
    """Say why a person may not put a version live in an environment, or None."""
    if refusal := _outside(environment, person, policy, "release to"):
        return refusal
    if version.state is not State.APPROVED:
        return _unapproved(version, policy)
    if hold := model.holds.get(environment):
        return Refusal(
            f"{environment} is held since {hold.by} rolled v{hold.withdrawn} back: {hold.reason}",
            f"Lift the hold first: modelyard lift {model.name} --env {environment}",
        )
    at = policy.environments.index(environment)
    if at and policy.environments[at - 1] not in version.passed:
        before = policy.environments[at - 1]
        return Refusal(
            f"v{version.version} has not been live in {before}, or was rolled back there.",
            f"Release it there first: modelyard release {model.name} --version v{version.version} --to {before}",
        )
    live = model.live.get(environment)
    if live and live.version == version.version:
        return Refusal(f"v{version.version} is live in {environment} already.", "There is nothing left to do.")
    return None


def may_roll_back(
    model: Model, version: VersionState, environment: str, person: Person, policy: Policy
) -> Refusal | None:
    """Say why a person may not put an earlier version live again, or None. A held environment can go further back."""
    if refusal := _outside(environment, person, policy, "roll back"):
        return refusal
    earlier = model.trails.get(environment, ())[:-1]
    if version.version not in earlier:
        return Refusal(
            f"v{version.version} was not live in {environment} before what is live now.",
            f"There were {', '.join(f'v{name}' for name in earlier)}." if earlier else "Release another version.",
        )
    if version.state is not State.APPROVED:
        return _unapproved(version, policy)
    live = model.live.get(environment)
    if live and live.version == version.version:
        return Refusal(f"v{version.version} is live in {environment} already.", "Name another version.")
    return None


def may_lift(model: Model, version: VersionState, environment: str, person: Person, policy: Policy) -> Refusal | None:
    """Say why a person may not lift the hold on an environment, or None; `version` is the one that stays live."""
    if refusal := _outside(environment, person, policy, "lift the hold on"):
        return refusal
    if environment not in model.holds:
        return Refusal(f"{environment} is not held.", "There is nothing to lift.")
    live = model.live[environment]
    if live.version != version.version:
        return Refusal(f"v{live.version} is live in {environment}, not v{version.version}.", "Read the state again.")
    return None


def rollback_target(model: Model, environment: str) -> str | None:
    """Return the version that was live in an environment before the one that is, or None."""
    trail = model.trails.get(environment, ())
    return next((version for version in reversed(trail) if version != trail[-1]), None)


def who(event: Event, people: People, keys: dict[str, Person] | None = None) -> Person | Refusal:
    """Return the person who signed an event, or why nobody vouches for it.

    Args:
        event: With the verified signer in it.
        people: Those of the commit HEAD.
        keys: `people.by_fingerprint()`, where the caller has it at hand.
    """
    if not event.signer:
        return Refusal(event.fault or "It is not signed.", "Find out who made it, and delete the tag.")
    person = (people.by_fingerprint() if keys is None else keys).get(event.signer)
    if person is None:
        return Refusal(
            f"It is signed with {event.signer}, and nobody in people.yaml has that key.",
            "Add the key to its owner there and commit, or delete the tag.",
        )
    if not (_same(event.actor, person.email) and _same(event.tagger, person.email)):
        return Refusal(
            f"{person.email} signed it in the name of {event.actor if event.actor != person.email else event.tagger}.",
            "Find out why, and delete the tag.",
        )
    if person.until and event.time >= person.until:
        return Refusal(f"{person.email} signed it after leaving.", "Find out why, and delete the tag.")
    return person


def judge(
    event: Event, model: Model, people: People, policy: Policy, keys: dict[str, Person] | None = None
) -> Refusal | None:
    """Say why an event may not happen now, or None.

    Args:
        event: What somebody wants to do, or has tagged.
        model: The state before it.
        people: Those of the commit HEAD.
        policy: Of this model.
        keys: `people.by_fingerprint()`, where the caller has it at hand.
    """
    person = who(event, people, keys)
    if isinstance(person, Refusal):
        return person
    if isinstance(event, Registered):
        if event.version in model.versions:
            return Refusal(f"v{event.version} is registered already.", "Take the next version.")
        return may_submit(person)
    version = model.versions.get(event.version)
    if version is None:
        return Refusal(f"{event.model} has no valid version v{event.version}.", "Submit it first.")
    if event.package != version.package:
        return Refusal(f"It is about another package than v{event.version} has.", "Read the state again.")
    if event.commit != version.commit:
        return Refusal(f"It points to another commit than v{event.version} does.", "Make it with Modelyard.")
    return _judge_decision(event, model, version, person, policy)


def _judge_decision(
    event: Event, model: Model, version: VersionState, person: Person, policy: Policy
) -> Refusal | None:
    if isinstance(event, Approved):
        return may_approve(version, person, policy)
    if isinstance(event, Rejected):
        return may_reject(version, person, policy)
    if isinstance(event, Released):
        return may_release(model, version, event.environment, person, policy)
    if isinstance(event, HoldLifted):
        return may_lift(model, version, event.environment, person, policy)
    if isinstance(event, RolledBack):
        live = model.live.get(event.environment)
        if live and live.version != event.replaces:
            return Refusal(f"v{live.version} is live there, not v{event.replaces}.", "Read the state again.")
        return may_roll_back(model, version, event.environment, person, policy)
    return Refusal(f"{type(event).__name__} is no event of the Model Center.", "Update Modelyard.")


@dataclass(slots=True)
class _Draft:
    """A model while the fold works on it: the dictionaries that the finished model shows."""

    name: str
    versions: dict[str, VersionState] = field(default_factory=dict)
    live: dict[str, Live] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    trails: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def view(self, events: tuple[Event, ...] = ()) -> Model:
        return Model(
            name=self.name, versions=self.versions, live=self.live, holds=self.holds, trails=self.trails, events=events
        )

    def apply(self, event: Event, policy: Policy) -> None:
        """Take in an event that `judge` has let pass."""
        if isinstance(event, Registered):
            at_once = policy.approvals == 0 and policy.unmet(event.metrics) is None
            state = State.APPROVED if at_once else State.NEW
            self.versions[event.version] = VersionState(registration=event, state=state)
            return
        version = self.versions[event.version]
        if isinstance(event, Approved):
            approvals = (*version.approvals, _decision(event))
            state = State.APPROVED if len(approvals) >= policy.approvals else version.state
            self.versions[event.version] = msgspec.structs.replace(version, state=state, approvals=approvals)
        elif isinstance(event, Rejected):
            rejections = (_decision(event),)
            self.versions[event.version] = msgspec.structs.replace(version, state=State.REJECTED, rejections=rejections)
        elif isinstance(event, HoldLifted):
            del self.holds[event.environment]
        elif isinstance(event, Released):
            self._put_live(event, event.environment, (*self.trails.get(event.environment, ()), event.version))
        elif isinstance(event, RolledBack):
            self._take_back(event)

    def _take_back(self, event: RolledBack) -> None:
        place = event.environment
        trail = self.trails[place]
        withdrawn = self.versions[event.replaces]
        rest = tuple(name for name in withdrawn.passed if name != place)
        self.versions[event.replaces] = msgspec.structs.replace(withdrawn, passed=rest)
        last = len(trail) - 2 - trail[-2::-1].index(event.version)
        self._put_live(event, place, trail[: last + 1])
        self.holds[place] = Hold(place, event.replaces, event.actor, event.reason, event.time)

    def _put_live(self, event: Event, place: str, trail: tuple[str, ...]) -> None:
        self.trails[place] = trail
        self.live[place] = Live(place, event.version, event.package, event.actor, event.time, event.tag, event.number)
        version = self.versions[event.version]
        if place not in version.passed:
            self.versions[event.version] = msgspec.structs.replace(version, passed=(*version.passed, place))


def fold(events: Iterable[Event | Unreadable], policy: Policies, people: People) -> Registry:
    """Return the state that events lead to. The order in which they are given does not matter.

    Registrations come first, by version; then all else by its number. Where two tags of a model share a number, as
    two clones of a repository can make them, a rejection comes before an approval and both before a release.

    Args:
        events: Of every model, and the tags that are none.
        policy: One for all models, or one by name.
        people: Those of the commit HEAD: who lost a role there has no say, not even over what was done before.
    """
    by_model: dict[str, list[Event]] = {}
    numbers: dict[str, set[int]] = {}
    problems: list[Ignored] = []
    for event in events:
        numbers.setdefault(event.model, {0}).add(event.number)
        if isinstance(event, Unreadable):
            problems.append(Ignored(event.tag, event.model, event.what, "Find out who made it, and delete the tag."))
        else:
            by_model.setdefault(event.model, []).append(event)
    keys = people.by_fingerprint()
    models: dict[str, Model] = {}
    for name in sorted(by_model):
        draft, rules, accepted = _Draft(name), policy_for(name, policy), []
        view = draft.view()
        for event in _in_turn(by_model[name]):
            if refusal := judge(event, view, people, rules, keys):
                problems.append(Ignored(event.tag, name, refusal.what, refusal.remedy))
            else:
                draft.apply(event, rules)
                accepted.append(event)
        if accepted:
            models[name] = draft.view(tuple(accepted))
            problems += _gaps(name, numbers[name])
    return Registry(models, tuple(sorted(problems, key=lambda problem: problem.tag)))


def _decision(event: Event) -> Decision:
    return Decision(event.actor, event.reason, event.time, event.tag)


def _gaps(model: str, numbers: set[int]) -> list[Ignored]:
    """Tell of numbers that no tag has: every tag takes the next one, so a missing one was deleted or not fetched."""
    present = sorted(numbers)
    gaps = []
    for before, after in itertools.pairwise(present):
        if after - before > 1:
            span = f"{before + 1}" if after - before == 2 else f"{before + 1} to {after - 1}"
            what = f"No tag of {model} has the number {span}: it was deleted, or not fetched."
            gaps.append(Ignored(f"{model}#*#{before + 1}", model, what, "Try git fetch --tags; ask who deleted it."))
    return gaps


_RANK = {Rejected: 0, Approved: 1}


def _in_turn(events: list[Event]) -> list[Event]:
    first = [event for event in events if isinstance(event, Registered)]
    first.sort(key=lambda event: (order(event.version), event.tag, event.id))
    rest = [event for event in events if not isinstance(event, Registered)]
    rest.sort(key=lambda event: (event.number, _RANK.get(type(event), 2), event.tag, event.id))
    return first + rest


def _outside(environment: str, person: Person, policy: Policy, deed: str) -> Refusal | None:
    if environment in policy.environments:
        return None if _has_role(person, policy.roles) else _lacks_role(person, policy.roles, f"{deed} {environment}")
    known = f"There are {', '.join(policy.environments)}; the committed blueprint says which."
    return Refusal(f"There is no environment {environment!r}.", known)


def _unapproved(version: VersionState, policy: Policy) -> Refusal:
    if version.state is State.REJECTED:
        return Refusal(f"v{version.version} was rejected.", "Submit it again as a new version.")
    if unmet := policy.unmet(version.metrics):
        return Refusal(f"v{version.version} misses a gate: {unmet}", "Submit a version that meets it.")
    missing = policy.approvals - len(version.approvals)
    command = f"modelyard approve {version.model} --version v{version.version}"
    return Refusal(
        f"v{version.version} is not approved: {missing} of {policy.approvals} approvals are missing.",
        f"Ask a person with the role {_any(policy.roles)} to run {command}",
    )


def _has_role(person: Person, roles: tuple[str, ...]) -> bool:
    return not frozenset(roles).isdisjoint(person.roles)


def _lacks_role(person: Person, roles: tuple[str, ...], deed: str) -> Refusal:
    has = f"has the role {' and '.join(person.roles)}" if person.roles else "has no role"
    return Refusal(
        f"{person.email} {has} and may not {deed}: that takes {_any(roles)}.",
        f"Ask a person with the role {_any(roles)}, or change the roles in people.yaml and commit.",
    )


def _any(roles: tuple[str, ...]) -> str:
    return " or ".join(roles)


def _same(email: str, other: str) -> bool:
    return email == other or email.casefold() == other.casefold()
