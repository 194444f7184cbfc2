"""The Model Center: submit, review, release, roll back; the record is signed Git tags, and nothing else."""

from __future__ import annotations

import difflib
import math
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from modelyard.center.events import (
    NAME,
    Approved,
    Event,
    HoldLifted,
    Registered,
    Rejected,
    Released,
    RolledBack,
    message_of,
    tag_name_of,
)
from modelyard.center.people import PEOPLE_FILE, parse_people
from modelyard.center.policy import Policies, policy_for
from modelyard.center.reading import Cache, Reader, Snapshot
from modelyard.center.registry import Live, Model, Registry, State, Story, VersionState, describe
from modelyard.center.rules import judge, rollback_target
from modelyard.center.signatures import parse_public_key
from modelyard.center.tags import Actor, Repository
from modelyard.center.versions import VERSION, bare, next_minor_or_major, order
from modelyard.errors import (
    BusyError,
    InputError,
    IntegrityError,
    MissingExtraError,
    ModelyardError,
    NotFoundError,
    RefusedError,
)

__all__ = ["Actor", "Center", "Summary", "actor_of"]

ATTEMPTS = 20

Bump = Callable[[str | None], str]
"""Takes the previous version without `v`, or None where there is none, and returns the next."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a registration tells of where a package comes from.

    Args:
        blueprint: Digest of the blueprint after overrides.
        data: Digest of each input of the run, by name.
        code: One digest over the code that the run executed.
        environment: Version of each distribution that matters, and of Python.
    """

    blueprint: str = ""
    data: dict[str, str] = {}
    code: str = ""
    environment: dict[str, str] = {}


class Center:
    """The Model Center of one repository.

    Args:
        repository: The project folder, in a Git repository; `people.yaml` lies in it.
        policy: The review rules: one policy for all models, or one by name.
        actor: Who acts; None: only reading is possible.
        cache: Remembers checked tags between processes, such as the catalog; None: this object alone remembers.
        clock: Returns seconds since 1970.

    Raises:
        InputError: The folder is in no Git repository.
        MissingExtraError: Git is not installed.
    """

    def __init__(
        self,
        repository: Path,
        *,
        policy: Policies,
        actor: Actor | None = None,
        cache: Cache | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._git = Repository(repository)
        self._reader = Reader(self._git, policy, cache)
        self._policy = policy
        self._actor = actor
        self._clock = clock

    def state(self) -> Registry:
        """Return every model and version as the tags, the policy and HEAD's `people.yaml` say now.

        Raises:
            InputError: `people.yaml` in HEAD is wrong.
        """
        return self._reader.read().registry

    def submit(
        self,
        name: str,
        package: str,
        *,
        contract_digest: str,
        contract_major_change: bool | Bump,
        metrics: Mapping[str, float],
        run: str,
        summary: Summary | Mapping[str, Any] | None = None,
        reason: str = "",
    ) -> VersionState:
        """Register a package as the next version of a model.

        Args:
            name: The model's name.
            package: Digest of the package.
            contract_digest: Digest of its contract.
            contract_major_change: Whether the contract differs from the previous version's (a new major version), or
                a callable that takes the previous version and returns the next.
            metrics: What the policy's gates are checked against.
            run: Id of the run that made the package.
            summary: Digests of blueprint, data and code, and the environment.
            reason: A word to the reviewers.

        Raises:
            RefusedError: The actor has no role that submits, or the package is a version already.
            InputError: The name or a metric can't be recorded.
        """
        if re.fullmatch(NAME, name, re.ASCII) is None:
            remedy = "Use letters, digits, `-` and `_`; the first and the last a letter or a digit."
            raise InputError(f"{name!r} can't be a model's name.", remedy=remedy)
        wrong = [metric for metric, value in metrics.items() if not math.isfinite(value)]
        if wrong:
            remedy = "Mend the evaluation: a gate can't be checked against it."
            raise InputError(f"The metric {wrong[0]} is {metrics[wrong[0]]}.", where=name, remedy=remedy)
        facts = _summary(summary)

        def build(snapshot: Snapshot) -> Event:
            model = snapshot.registry.models.get(name) or _empty(name)
            twin = next((v for v in model.versions.values() if v.package == package), None)
            if twin and twin.state is not State.REJECTED:
                remedy = "Submit another package, or review that version."
                raise RefusedError(f"This package is v{twin.version} already.", where=name, remedy=remedy)
            return Registered(
                model=name,
                version=_next_version(snapshot, model, contract_major_change),
                package=package,
                actor="",
                reason=reason,
                contract=contract_digest,
                run=run,
                metrics=dict(metrics),
                **msgspec.structs.asdict(facts),
            )

        event, model = self._record(name, build)
        return model.versions[event.version]

    def approve(self, name: str, version: str, reason: str) -> VersionState:
        """Approve a version; it is approved once as many people as the policy asks for have done so.

        Args:
            name: The model's name.
            version: Such as `1.2.0` or `v1.2.0`.
            reason: Why, for the record.

        Raises:
            RefusedError: The rules do not let this actor approve it now.
            NotFoundError: There is no such model or version.
        """
        return self._decide(Approved, name, version, reason)

    def reject(self, name: str, version: str, reason: str) -> VersionState:
        """Reject a version for good; arguments and errors as for `approve`."""
        return self._decide(Rejected, name, version, reason)

    def release(self, name: str, to: str, version: str | None = None, *, reason: str = "") -> Live:
        """Put a version live in an environment.

        Args:
            name: The model's name.
            to: The environment.
            version: Left out: for the first environment the highest approved version, for another one the version
                that is live in the environment before it.
            reason: Why, for the record.

        Raises:
            RefusedError: The rules do not let this actor release it there now.
            NotFoundError: There is no such model, version or environment, or no version that could be meant.
        """
        return self._record(name, self._release_of(name, to, version, reason))[1].live[to]

    def may_release(self, name: str, to: str, version: str | None = None) -> str:
        """Return the version that `release` would put live, recording nothing; it takes and raises what that does."""
        return self._judged(name, self._release_of(name, to, version, ""))[0].version

    def _release_of(self, name: str, to: str, version: str | None, reason: str) -> Callable[[Snapshot], Event]:
        def build(snapshot: Snapshot) -> Event:
            model = snapshot.registry.model(name)
            self._check_environment(name, to)
            chosen = model.version(version) if version else self._candidate(model, to)
            return _about(Released, chosen, reason, environment=to)

        return build

    def rollback(self, name: str, environment: str, to: str | None = None, *, reason: str) -> Live:
        """Put an earlier version live again, and hold the environment until `lift`.

        Args:
            name: The model's name.
            environment: Where.
            to: A version that was live there; left out: the one before what is live now.
            reason: Why, for the record.

        Raises:
            RefusedError: There is no earlier version, or the rules do not let this actor.
            NotFoundError: There is no such model, version or environment.
        """
        return self._record(name, self._rollback_of(name, environment, to, reason))[1].live[environment]

    def may_roll_back(self, name: str, environment: str, to: str | None = None) -> str:
        """Return the version that `rollback` would put live; it records nothing, and raises what that does."""
        return self._judged(name, self._rollback_of(name, environment, to, ""))[0].version

    def _rollback_of(self, name: str, environment: str, to: str | None, reason: str) -> Callable[[Snapshot], Event]:
        def build(snapshot: Snapshot) -> Event:
            model = snapshot.registry.model(name)
            self._check_environment(name, environment)
            target = to or rollback_target(model, environment)
            if target is None:
                what = f"No other version of {name} was live in {environment} before."
                raise RefusedError(what, where=name, remedy="Release another version.")
            live = model.live.get(environment)
            replaces = live.version if live else ""
            return _about(RolledBack, model.version(target), reason, environment=environment, replaces=replaces)

        return build

    def lift(self, name: str, environment: str, reason: str) -> Live:
        """Let a held environment take releases again; returns what stays live there.

        Raises:
            RefusedError: It is not held, or the rules do not let this actor.
            NotFoundError: There is no such model or environment.
        """

        def build(snapshot: Snapshot) -> Event:
            model = snapshot.registry.model(name)
            self._check_environment(name, environment)
            live = model.live.get(environment)
            if live is None or environment not in model.holds:
                raise RefusedError(f"{environment} is not held.", where=name, remedy="There is nothing to lift.")
            return _about(HoldLifted, model.version(live.version), reason, environment=environment)

        return self._record(name, build)[1].live[environment]

    def history(self, name: str) -> list[Story]:
        """Return what happened to a model, oldest first: who did what, when, on which package and run.

        Raises:
            NotFoundError: There is no such model.
        """
        snapshot = self._reader.read()
        model = snapshot.registry.model(name)
        stories = []
        for event in sorted(model.events, key=lambda event: (event.time, event.number)):
            person = snapshot.people.by_email(event.actor)
            by = f"{person.name} <{person.email}>" if person else event.actor
            run = model.versions[event.version].run
            stories.append(Story(event.time, by, describe(event), event, run))
        return stories

    def _decide(self, kind: type[Approved | Rejected], name: str, version: str, reason: str) -> VersionState:
        def build(snapshot: Snapshot) -> Event:
            return _about(kind, snapshot.registry.version(name, version), reason)

        event, model = self._record(name, build)
        return model.versions[event.version]

    def _check_environment(self, name: str, environment: str) -> None:
        """Tell who misspelt an environment; no rule is asked about one that does not exist."""
        known = policy_for(name, self._policy).environments
        if environment not in known:
            near = difflib.get_close_matches(environment, known, n=1)
            meant = f"Did you mean {near[0]}? " if near else ""
            there = f"{meant}There are {', '.join(known)}; the committed blueprint says which."
            raise NotFoundError(f"There is no environment {environment!r}.", where=name, remedy=there)

    def _candidate(self, model: Model, environment: str) -> VersionState:
        """Return the version that a release without one means."""
        environments = policy_for(model.name, self._policy).environments
        at = environments.index(environment)
        before = model.live.get(environments[at - 1]) if at else None
        newest = model.newest(State.APPROVED) or model.latest
        chosen = model.versions[before.version] if before else newest
        if chosen is None:
            raise NotFoundError(f"{model.name} has no version.", remedy="Submit one with `modelyard submit`.")
        return chosen

    def _record(self, name: str, build: Callable[[Snapshot], Event]) -> tuple[Event, Model]:
        """Judge an event and record it as a tag; where somebody was faster, look again and take the next number."""
        with self._git.lock():
            for _ in range(ATTEMPTS):
                event, actor = self._judged(name, build)
                commit = event.commit or self._git.make_commit(f"Register {name} v{event.version}", actor, event.time)
                if self._git.make_tag(tag_name_of(event), commit, message_of(event), actor, event.time):
                    return event, self._confirmed(event)
        remedy = "Try again; see who else tags this repository."
        raise BusyError(f"{ATTEMPTS} times somebody else made the tag first.", where=name, remedy=remedy)

    def _judged(self, name: str, build: Callable[[Snapshot], Event]) -> tuple[Event, Actor]:
        """Return an event that the rules allow now, and who signs it."""
        snapshot = self._reader.read()
        # What is named wrongly is told first: no key and no role would mend it.
        built = build(snapshot)
        actor, fingerprint = self._signer(snapshot)
        model = snapshot.registry.models.get(name) or _empty(name)
        event = msgspec.structs.replace(
            built,
            actor=actor.email,
            tagger=actor.email,
            signer=fingerprint,
            time=snapshot.next_time(name, int(self._clock())),
        )
        if not isinstance(event, Registered):
            event = msgspec.structs.replace(event, number=snapshot.next_number(name))
        rules = policy_for(name, self._policy)
        if refusal := judge(event, model, snapshot.people, rules):
            raise RefusedError(refusal.what, where=name, remedy=refusal.remedy)
        return event, actor

    def _confirmed(self, event: Event) -> Model:
        """Return the model after an event; a tag that does not count after all is taken away again."""
        tag = tag_name_of(event)
        registry = self._reader.read().registry
        model = registry.models.get(event.model)
        if model and any(accepted.tag == tag for accepted in model.events):
            return model
        why = next((problem.what for problem in registry.problems if problem.tag == tag), "It can't be read back.")
        self._git.remove_tag(tag)
        remedy = "See that signing_key, its .pub file and people.yaml belong together."
        raise IntegrityError(f"The tag {tag} would not count, and was removed: {why}", remedy=remedy)

    def _signer(self, snapshot: Snapshot) -> tuple[Actor, str]:
        """Return the actor as `people.yaml` spells the email, and the fingerprint of the key that will sign."""
        actor = self._actor
        if actor is None or not actor.email:
            remedy = "Set `identity` in modelyard.toml, or git config user.email, to your email in people.yaml."
            raise InputError("Nobody is named as the one who acts.", remedy=remedy)
        if not self._git.has_commit():
            remedy = f"Commit {PEOPLE_FILE} and the blueprint first: git add . && git commit"
            raise InputError("The Git repository has no commit yet.", where=str(self._git.folder), remedy=remedy)
        person = snapshot.people.by_email(actor.email)
        if person is None:
            raise self._stranger(actor.email, snapshot)
        if actor.signing_key is None:
            remedy = "Set `signing_key` in modelyard.toml, or git config user.signingkey, to your private SSH key."
            raise InputError("There is no key to sign with.", remedy=remedy)
        fingerprint = _fingerprint_of(actor.signing_key)
        if fingerprint not in person.fingerprints:
            what = f"{person.email} has no such key in {PEOPLE_FILE}: {fingerprint}."
            remedy = f"Add its .pub line there and commit.{self._uncommitted(snapshot)}"
            raise RefusedError(what, where=str(actor.signing_key), remedy=remedy)
        return Actor(actor.name or person.name, person.email, actor.signing_key.absolute()), fingerprint

    def _stranger(self, email: str, snapshot: Snapshot) -> ModelyardError:
        where = str(self._git.folder / PEOPLE_FILE)
        if not snapshot.has_people:
            remedy = f"Write one, and commit it.{self._uncommitted(snapshot)}"
            return InputError(f"The commit HEAD has no {PEOPLE_FILE}.", where=where, remedy=remedy)
        known = ", ".join(person.email for person in snapshot.people.people)
        remedy = f"It knows {known or 'nobody'}. Add yourself, and commit.{self._uncommitted(snapshot)}"
        return RefusedError(f"{email} is not in {PEOPLE_FILE}.", where=where, remedy=remedy)

    def _uncommitted(self, snapshot: Snapshot) -> str:
        """Return a sentence that says so where the work tree's `people.yaml` is not the one that counts."""
        try:
            different = parse_people((self._git.folder / PEOPLE_FILE).read_bytes()) != snapshot.people
        except (OSError, InputError):
            return ""
        return f" {PEOPLE_FILE} has changes that are not committed; only the commit HEAD counts." if different else ""


def actor_of(repository: Path, *, identity: str | None = None, signing_key: str | Path | None = None) -> Actor | None:
    """Return who acts, from the settings and, where they are silent, from Git's `user.*` configuration.

    Args:
        repository: The project folder.
        identity: Email, or None.
        signing_key: Path of a private SSH key, or of a `.pub` file whose private half an agent holds; or None.

    Returns:
        The actor; None where nobody is named.
    """
    git = Repository(repository)
    email = identity or git.setting("user.email")
    if not email:
        return None
    key = str(signing_key) if signing_key else git.setting("user.signingkey", path=True)
    if key and key.startswith(("key::", "ssh-", "ecdsa-", "sk-")):
        key = None  # Git also takes the public key itself; we need to know the file
    name = git.setting("user.name") if identity in (None, git.setting("user.email")) else None
    return Actor(name or "", email, (repository / Path(key).expanduser()) if key else None)


def _empty(name: str) -> Model:
    return Model(name=name, versions={}, live={}, holds={}, trails={})


def _about(kind: type[Event], version: VersionState, reason: str, **more: Any) -> Event:
    return kind(
        model=version.model,
        version=version.version,
        package=version.package,
        commit=version.commit,
        actor="",
        reason=reason,
        **more,
    )


def _summary(summary: Summary | Mapping[str, Any] | None) -> Summary:
    if isinstance(summary, Summary):
        return summary
    try:
        return msgspec.convert(dict(summary or {}), Summary)
    except msgspec.ValidationError as error:
        raise InputError(f"The summary does not fit: {error}.", remedy="See modelyard.center.Summary.") from error


def _next_version(snapshot: Snapshot, model: Model, change: bool | Bump) -> str:
    # A version whose tag does not count still takes its name: Git has the tag.
    taken = {event.tag for event in snapshot.events if event.model == model.name}
    previous = max(model.versions, key=order, default=None)
    while True:
        version = bare(change(previous)) if callable(change) else next_minor_or_major(previous, major=change)
        if re.fullmatch(VERSION, version, re.ASCII) is None or version == previous:
            raise InputError(f"{version!r} can't be the version after {previous}.", remedy="Use one such as 1.4.0.")
        if f"{model.name}@v{version}" not in taken:
            return version
        previous, change = version, False if not callable(change) else change


def _fingerprint_of(key: Path) -> str:
    """Return the fingerprint of a private key by its `.pub` file, or by asking ssh-keygen where there is none."""
    public = key if key.suffix == ".pub" else key.with_name(f"{key.name}.pub")
    if not key.exists():
        remedy = "Make one with ssh-keygen -t ed25519, or set `signing_key` to yours."
        raise InputError("There is no such signing key.", where=str(key), remedy=remedy)
    try:
        text = public.read_text(encoding="utf-8") if public.exists() else _derive(key)
        return parse_public_key(text).fingerprint
    except (OSError, ValueError) as error:
        raise InputError(f"This is no usable SSH key: {error}", where=str(public), remedy="Check the file.") from error


def _derive(key: Path) -> str:
    try:
        done = subprocess.run(
            ("ssh-keygen", "-y", "-P", "", "-f", str(key)), capture_output=True, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        remedy = "Install OpenSSH's client, such as with: apt install openssh-client"
        raise MissingExtraError("ssh-keygen is not on the PATH.", remedy=remedy) from error
    if done.returncode != 0:
        raise ValueError(done.stderr.decode(errors="replace").strip() or "ssh-keygen can't read it.")
    return done.stdout.decode()
