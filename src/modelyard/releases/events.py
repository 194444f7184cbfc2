"""The event of a release, and its form on the bus: CloudEvents 1.0, structured JSON.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md and formats/json-format.md.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.errors import InputError

__all__ = ["RELEASE_TYPE", "ReleaseEvent", "topic_of"]

RELEASE_TYPE = "modelyard.release.v1"
"""The CloudEvents type. A change that breaks readers gets a new one; readers let pass what they do not know."""


class _Data(msgspec.Struct, frozen=True):
    model: str
    version: str
    environment: str
    package: str
    actor: str
    tag: str
    time: float


class ReleaseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a model was assigned to an environment.

    Args:
        source: URI of the repository that recorded it: a remote's URL or `file:///path`.
        model: The model's name.
        version: Such as `v1.2.0`.
        environment: Such as `production`.
        package: Digest of the package.
        actor: Who released it.
        tag: The Git tag that is the record, such as `digits#production#7`. Together with `source` it names the
            event, so that a release that is announced twice is known to be the same.
        time: Seconds since 1970, UTC.
    """

    source: str
    model: str
    version: str
    environment: str
    package: str
    actor: str
    tag: str
    time: float

    @property
    def id(self) -> str:
        """The event's id; with `source` it is unique."""
        return self.tag

    def to_cloudevent(self) -> dict[str, Any]:
        """Return the event as a CloudEvent: JSON types only."""
        moment = datetime.datetime.fromtimestamp(self.time, datetime.UTC)
        data = {name: getattr(self, name) for name in _Data.__struct_fields__}
        return {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": RELEASE_TYPE,
            "subject": self.model,
            "time": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "data": data,
        }

    @classmethod
    def from_cloudevent(cls, message: Mapping[str, Any]) -> ReleaseEvent:
        """Read a CloudEvent; attributes that are not ours (extensions) are let pass.

        Raises:
            InputError: It is no CloudEvent of this type, or lacks something; it says what.
        """
        if message.get("specversion") != "1.0" or message.get("type") != RELEASE_TYPE:
            raise InputError(
                f"This message is no {RELEASE_TYPE}: its type is {message.get('type')!r}.",
                remedy="See what else publishes to this topic.",
            )
        source = message.get("source")
        try:
            if not isinstance(source, str) or not source:
                raise msgspec.ValidationError("Object missing required field `source`")
            data = msgspec.convert(message.get("data"), _Data)
        except msgspec.ValidationError as error:
            raise InputError(
                f"This release event is damaged: {error}.",
                where=str(message.get("id")),
                remedy="See what published it; Git still records the release.",
            ) from error
        return cls(source=source, **msgspec.structs.asdict(data))


def topic_of(environment: str) -> str:
    """Return the topic that carries an environment's releases."""
    return f"releases.{environment}"
