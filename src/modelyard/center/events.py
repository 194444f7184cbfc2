"""What happened to a model version: typed events, and the pure way from a tag to an event and back.

A tag's name follows GTO's grammar, so GTO reads it: `digits@v1.2.0` registers a version; `digits#approved#4`,
`digits#rejected#5` decide about one; `digits#staging#6` puts one live, rolls back, or lifts a hold. The number is
one counter for the whole model. The tag's message is JSON and says the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from modelyard.center.versions import VERSION

__all__ = [
    "APPROVED",
    "Approved",
    "Event",
    "HoldLifted",
    "MESSAGE_FORMAT",
    "NAME",
    "REJECTED",
    "Registered",
    "Rejected",
    "Released",
    "RolledBack",
    "TagHeader",
    "TagName",
    "Unreadable",
    "message_of",
    "parse_event",
    "parse_tag_name",
    "tag_name_of",
]

MESSAGE_FORMAT = 1
MAXIMUM_DIGITS = 12  # of a tag's number: a longer one was made to break something
APPROVED = "approved"
REJECTED = "rejected"

NAME = r"[a-zA-Z0-9](?:[a-zA-Z0-9-/_]*[a-zA-Z0-9])?"
"""What GTO accepts as a model's or an environment's name."""

_TAG = re.compile(
    rf"(?P<model>(?:[a-zA-Z0-9-_./]+=)?{NAME})"
    rf"(?:(?:#(?P<stage>{NAME})|@v(?P<version>{VERSION}))(?P<cancel>!?)|@(?:deprecated|created))"
    r"(?:#(?P<number>[0-9]+))?",
    re.ASCII,
)
_BODY_FIELDS_OF_HEADER = frozenset(("tag", "id", "commit", "time", "tagger", "signer", "fault", "number"))


class TagName(msgspec.Struct, frozen=True):
    """A tag's name, taken apart.

    Args:
        model: The model's name.
        version: Such as `1.2.0` for a registration; otherwise an empty text.
        stage: `approved`, `rejected` or an environment; an empty text for a registration.
        number: The model's counter; 0 where the name has none.
        used: Whether the Model Center uses this form; GTO also knows `!` (cancel), `@deprecated` and `@created`.
    """

    model: str
    version: str
    stage: str
    number: int
    used: bool


class TagHeader(msgspec.Struct, frozen=True):
    """What Git itself says of a tag, and what its signature proves.

    Args:
        tag: The tag's name.
        id: The tag object's id.
        commit: Id of the commit that it points to.
        time: The tagger's time, seconds since 1970.
        tagger: The tagger's email.
        signer: Fingerprint of the key that signed it validly; an empty text where none did.
        fault: Why `signer` is empty.
    """

    tag: str
    id: str
    commit: str
    time: int
    tagger: str
    signer: str
    fault: str = ""


# Nothing here can be part of a cycle, so the garbage collector need not look at ten thousands of them (`gc=False`).
class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="action"):
    """Base of every event: the header's fields, what the name says, and what every message carries.

    Args:
        tag: The tag's name.
        id: The tag object's id.
        commit: Id of the commit that it points to.
        time: The tagger's time, seconds since 1970.
        tagger: The tagger's email.
        signer: Fingerprint of the key that signed it validly; an empty text where none did.
        fault: Why `signer` is empty.
        number: The model's counter; 0 for a registration.
        model: The model's name.
        version: The version it is about, without `v`.
        package: Digest of that version's package.
        actor: Email of who says so.
        reason: Why, in the actor's words.
    """

    tag: str = ""
    id: str = ""
    commit: str = ""
    time: int = 0
    tagger: str = ""
    signer: str = ""
    fault: str = ""
    number: int = 0
    model: str
    version: str
    package: str
    actor: str
    reason: str = ""

    stage: ClassVar[str] = ""


class Registered(Event, frozen=True, kw_only=True, gc=False, tag="register"):
    """A package was submitted as a version.

    Args:
        contract: Digest of the package's contract.
        run: Id of the run that made it.
        metrics: The run's metrics, which the gates are checked against.
        blueprint: Digest of the blueprint.
        data: Digest of each input of the run, by name.
        code: One digest over the code that the run executed.
        environment: Version of each installed distribution, and of Python.
    """

    contract: str = ""
    run: str = ""
    metrics: dict[str, float] = {}
    blueprint: str = ""
    data: dict[str, str] = {}
    code: str = ""
    environment: dict[str, str] = {}


class Approved(Event, frozen=True, kw_only=True, gc=False, tag="approve"):
    """Somebody approved a version."""

    stage: ClassVar[str] = APPROVED


class Rejected(Event, frozen=True, kw_only=True, gc=False, tag="reject"):
    """Somebody rejected a version, for good."""

    stage: ClassVar[str] = REJECTED


class _InEnvironment(Event, frozen=True, kw_only=True, gc=False):
    """Base of the events of an environment."""

    environment: str


class Released(_InEnvironment, frozen=True, kw_only=True, gc=False, tag="release"):
    """A version was put live in an environment."""


class RolledBack(_InEnvironment, frozen=True, kw_only=True, gc=False, tag="rollback"):
    """An earlier version was put live again, and the environment held.

    Args:
        replaces: The version that was taken back.
    """

    replaces: str


class HoldLifted(_InEnvironment, frozen=True, kw_only=True, gc=False, tag="lift"):
    """An environment takes releases again; `version` is the one that stays live."""


class Unreadable(msgspec.Struct, frozen=True, tag_field="action", tag="unreadable"):
    """A tag in the grammar that is no event.

    Args:
        tag: The tag's name.
        id: The tag object's id.
        model: The model's name.
        what: Why it is none, in one sentence.
        number: The model's counter; 0 where the name has none.
    """

    tag: str
    id: str
    model: str
    what: str
    number: int = 0


_KINDS: dict[str, type[Event]] = {
    "register": Registered,
    "approve": Approved,
    "reject": Rejected,
    "release": Released,
    "rollback": RolledBack,
    "lift": HoldLifted,
}
_STAGE_OF_ACTION = {"register": "", "approve": APPROVED, "reject": REJECTED}


def parse_tag_name(name: str) -> TagName | None:
    """Take a tag's name apart, or return None where it is not in GTO's grammar."""
    match = _TAG.fullmatch(name)
    if match is None:
        return None
    version, stage, number = match["version"] or "", match["stage"] or "", match["number"]
    if number and len(number) > MAXIMUM_DIGITS:
        return TagName(match["model"].replace("=", ":"), version, stage, 0, False)
    used = not match["cancel"] and ((bool(version) and number is None) or (bool(stage) and number is not None))
    return TagName(match["model"].replace("=", ":"), version, stage, int(number or 0), used)


def tag_name_of(event: Event) -> str:
    """Return the name of the tag that records an event."""
    model = event.model.replace(":", "=")
    if isinstance(event, Registered):
        return f"{model}@v{event.version}"
    stage = event.environment if isinstance(event, _InEnvironment) else event.stage
    return f"{model}#{stage}#{event.number}"


def message_of(event: Event) -> str:
    """Return the JSON message of the tag that records an event; keys are in the classes' order."""
    body = {key: value for key, value in msgspec.to_builtins(event).items() if key not in _BODY_FIELDS_OF_HEADER}
    message = {"format": MESSAGE_FORMAT, **body}
    return msgspec.json.format(msgspec.json.encode(message), indent=2).decode() + "\n"


def parse_event(name: TagName, header: TagHeader, message: bytes) -> Event | Unreadable:
    """Return the event that a tag records.

    Args:
        name: The tag's name, taken apart.
        header: What Git says of the tag, and what its signature proves; it outweighs whatever the message claims.
        message: The tag's message without the signature.
    """
    try:
        return _event(name, header, message)
    except (ValueError, msgspec.MsgspecError) as error:
        return Unreadable(header.tag, header.id, name.model, str(error), name.number)


def _event(name: TagName, header: TagHeader, message: bytes) -> Event:
    if not name.used:
        raise ValueError("The Model Center does not use this kind of GTO tag.")
    try:
        body = msgspec.json.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"Its message is not JSON: {error}.") from error
    if not isinstance(body, dict):
        raise ValueError("Its message is not a JSON object.")
    if body.get("format") != MESSAGE_FORMAT:
        raise ValueError(f"Its message has the format {body.get('format')!r}; this version reads {MESSAGE_FORMAT}.")
    action = body.get("action")
    kind = _KINDS.get(action) if isinstance(action, str) else None
    if kind is None or not isinstance(action, str):
        raise ValueError(f"Its message has the action {action!r}, which is none of {', '.join(_KINDS)}.")
    _agree(name, action, body)
    # The name and the header are what Git and the signature vouch for: a message can't replace them.
    known = {
        **body,
        **msgspec.structs.asdict(header),
        "number": name.number,
        "model": name.model,
    }
    try:
        return msgspec.convert(known, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"Its message does not fit: {error}.") from error


def _agree(name: TagName, action: str, body: Mapping[str, Any]) -> None:
    if body.get("model") != name.model:
        raise ValueError(f"Its name is about {name.model}, its message about {body.get('model')!r}.")
    if action == "register" and body.get("version") != name.version:
        raise ValueError(f"Its name registers {name.version}, its message {body.get('version')!r}.")
    if re.fullmatch(VERSION, str(body.get("version")), re.ASCII) is None:
        raise ValueError(f"{body.get('version')!r} is not a version.")
    expected = _STAGE_OF_ACTION.get(action)
    if expected is None:
        expected = body.get("environment")
        if expected in (APPROVED, REJECTED, ""):
            raise ValueError(f"{expected!r} can't be an environment.")
    if name.stage != expected:
        raise ValueError(f"Its name says {name.stage or 'a registration'!r}, its message {action} {expected or ''}.")
