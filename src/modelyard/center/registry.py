"""The state of the Model Center, as pure data: models, their versions, and what is live where."""

from __future__ import annotations

import difflib
import enum
from collections.abc import Mapping

import msgspec

from modelyard.center.events import Approved, Event, HoldLifted, Registered, Rejected, Released, RolledBack
from modelyard.center.versions import bare, order
from modelyard.errors import NotFoundError

__all__ = ["Decision", "Hold", "Ignored", "Live", "Model", "Registry", "State", "VersionState"]


class State(enum.StrEnum):
    """Where a version stands. A rejected one stays rejected; a new submission makes a new version."""

    NEW = "new"
    APPROVED = "approved"
    REJECTED = "rejected"


class Decision(msgspec.Struct, frozen=True, gc=False):
    """One approval or rejection.

    Args:
        by: Email of who decided.
        reason: In that person's words.
        time: Seconds since 1970.
        tag: Name of the tag that records it.
    """

    by: str
    reason: str
    time: int
    tag: str


class VersionState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One version of a model.

    Args:
        registration: What was submitted: package, run, metrics, digests, by whom and when.
        state: Where it stands.
        approvals: In order; more than the policy asks for are kept too.
        rejections: At most one.
        passed: Environments in which it has been live and was not taken back since.
    """

    registration: Registered
    state: State = State.NEW
    approvals: tuple[Decision, ...] = ()
    rejections: tuple[Decision, ...] = ()
    passed: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """The model's name."""
        return self.registration.model

    @property
    def version(self) -> str:
        """The version, without `v`."""
        return self.registration.version

    @property
    def package(self) -> str:
        """Digest of the package."""
        return self.registration.package

    @property
    def contract(self) -> str:
        """Digest of the package's contract."""
        return self.registration.contract

    @property
    def run(self) -> str:
        """Id of the run that made it."""
        return self.registration.run

    @property
    def metrics(self) -> Mapping[str, float]:
        """The run's metrics."""
        return self.registration.metrics

    @property
    def submitter(self) -> str:
        """Email of who submitted it."""
        return self.registration.actor

    @property
    def commit(self) -> str:
        """Id of the commit made for this version, to which all its tags point."""
        return self.registration.commit

    @property
    def time(self) -> int:
        """When it was submitted, seconds since 1970."""
        return self.registration.time

    def __str__(self) -> str:
        return f"{self.model} v{self.version}: {self.state}"


class Live(msgspec.Struct, frozen=True, gc=False):
    """What runs in an environment.

    Args:
        environment: Its name.
        version: Without `v`.
        package: Digest of that version's package.
        by: Email of who released it or rolled back to it.
        time: Seconds since 1970.
        tag: Name of the tag that says so.
        since: The tag's number: it grows with every change of what is live.
    """

    environment: str
    version: str
    package: str
    by: str
    time: int
    tag: str
    since: int


class Hold(msgspec.Struct, frozen=True, gc=False):
    """Why an environment takes no release.

    Args:
        environment: Its name.
        withdrawn: The version that was rolled back from.
        by: Email of who rolled back.
        reason: In that person's words.
        time: Seconds since 1970.
    """

    environment: str
    withdrawn: str
    by: str
    reason: str
    time: int


class Ignored(msgspec.Struct, frozen=True, gc=False):
    """A tag that does not count: forged, unsigned, by somebody without the role, or out of order.

    Args:
        tag: Its name.
        model: The model it is about.
        what: Why it does not count.
        remedy: What to do about it.
    """

    tag: str
    model: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.tag}: {self.what} {self.remedy}".rstrip()


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model: a view of the fold's result; nothing changes it once the fold has returned it.

    Args:
        name: Its name.
        versions: By version without `v`, in ascending order of precedence.
        live: By environment.
        holds: By environment.
        trails: By environment the versions that were live, oldest first; the last one is live now, and a rollback
            drops what it takes back.
        events: What happened, in the order in which it counts; ignored tags are not among them.
    """

    name: str
    versions: Mapping[str, VersionState]
    live: Mapping[str, Live]
    holds: Mapping[str, Hold]
    trails: Mapping[str, tuple[str, ...]]
    events: tuple[Event, ...] = ()

    @property
    def latest(self) -> VersionState | None:
        """The version of highest precedence, or None."""
        return self.versions[next(reversed(tuple(self.versions)))] if self.versions else None

    def version(self, version: str) -> VersionState:
        """Return a version, named as `1.2.0` or `v1.2.0`.

        Raises:
            NotFoundError: There is none; it names the nearest.
        """
        found = self.versions.get(bare(version))
        if found is None:
            raise NotFoundError(
                f"{self.name} has no version {version}.", remedy=_nearest(bare(version), self.versions, "v")
            )
        return found

    def newest(self, state: State) -> VersionState | None:
        """Return the version of highest precedence that is in a state, or None."""
        found = [version for version in self.versions.values() if version.state is state]
        return max(found, key=lambda version: order(version.version), default=None)


class Registry(msgspec.Struct, frozen=True):
    """Every model, and every tag that does not count.

    Args:
        models: By name, sorted.
        problems: Ignored tags, sorted by name; and gaps in a model's numbers.
    """

    models: Mapping[str, Model] = {}
    problems: tuple[Ignored, ...] = ()

    def model(self, name: str) -> Model:
        """Return a model.

        Raises:
            NotFoundError: There is none of that name; it names the nearest.
        """
        found = self.models.get(name)
        if found is None:
            raise NotFoundError(f"The Model Center has no model {name!r}.", remedy=_nearest(name, self.models))
        return found

    def version(self, name: str, version: str) -> VersionState:
        """Return a version of a model; raises NotFoundError where there is none."""
        return self.model(name).version(version)

    def live(self, name: str, environment: str) -> Live | None:
        """Return what of a model runs in an environment; None where nothing does, or there is no such model."""
        model = self.models.get(name)
        return model.live.get(environment) if model else None


def _nearest(name: str, known: Mapping[str, object], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"Did you mean {prefix}{near[0]}?"
    return f"There are {', '.join(prefix + one for one in known)}." if known else "Submit one with `modelyard submit`."


class Story(msgspec.Struct, frozen=True):
    """One line of a model's history: who did what, when, on which package and run.

    Args:
        time: Seconds since 1970.
        who: Name and email.
        what: A sentence's rest, such as `released v1.2.0 to staging`.
        event: What is told.
        run: Id of the run that made the version.
    """

    time: int
    who: str
    what: str
    event: Event
    run: str

    def __str__(self) -> str:
        reason = f": {self.event.reason}" if self.event.reason else ""
        return f"{self.who} {self.what}{reason} (package {self.event.package[:12]}, run {self.run or 'unknown'})"


def describe(event: Event) -> str:
    """Return what somebody did, such as `approved v1.2.0`."""
    version = f"v{event.version}"
    if isinstance(event, RolledBack):
        return f"rolled {event.environment} back from v{event.replaces} to {version}"
    if isinstance(event, HoldLifted):
        return f"lifted the hold on {event.environment}, where {version} is live"
    if isinstance(event, Released):
        return f"released {version} to {event.environment}"
    words = {Registered: "submitted", Approved: "approved", Rejected: "rejected"}
    return f"{words[type(event)]} {version}"
