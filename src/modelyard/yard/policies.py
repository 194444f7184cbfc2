"""The review rules of each model: those of the commit HEAD, like `people.yaml`; an edit counts once it is committed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from pydantic import TypeAdapter, ValidationError

from modelyard.blueprint.load import loads_blueprint
from modelyard.blueprint.model import Environment, Review
from modelyard.blueprint.yaml import read_yaml
from modelyard.center.policy import Policy, policy_of
from modelyard.center.tags import Repository
from modelyard.errors import BlueprintError, InputError

__all__ = ["CommittedPolicies"]

FOLDERS = ("./", "blueprints/")
_LINK = "120000"
_ENVIRONMENTS = TypeAdapter(tuple[Environment, ...])


class CommittedPolicies:
    """Reads them, again only where the commit has other files than before.

    Args:
        project: The project folder, in a Git repository.

    Raises:
        InputError: The folder is in no Git repository.
    """

    def __init__(self, project: Path) -> None:
        self._git = Repository(project)
        self._files: Mapping[str, tuple[str, str]] | None = None
        self._policies: dict[str, Policy] = {}
        self._stated: dict[str, str] = {}

    def read(self) -> dict[str, Policy]:
        """Return the policy of each model that a committed blueprint has.

        Raises:
            InputError: A committed blueprint states rules that can't be read, or two state different ones.
        """
        found = self._git.committed(FOLDERS)
        files = {path: entry for path, entry in found.items() if path.endswith((".yaml", ".yml"))}
        if files != self._files:
            self._policies, self._stated = self._read(files)
            self._files = files
        return self._policies

    def _read(self, files: Mapping[str, tuple[str, str]]) -> tuple[dict[str, Policy], dict[str, str]]:
        policies: dict[str, Policy] = {}
        stated: dict[str, str] = {}
        objects = self._git.read([identity for _, identity in files.values()])
        for (path, (mode, _)), entry in zip(files.items(), objects, strict=True):
            file = f"{path} (in HEAD)"
            if entry is None or mode == _LINK:
                remedy = "Commit the file itself."
                raise InputError("This is a link, so what it states is not in the commit.", where=file, remedy=remedy)
            if b"pipeline" not in entry.content:
                continue
            rules = _rules(entry.content, file)
            if rules is None:
                continue
            model, policy = rules
            if policies.setdefault(model, policy) != policy:
                raise InputError(
                    f"{stated[model]} and {path} state different review rules or environments for {model!r}.",
                    where="the commit HEAD",
                    remedy="Make `review` and `environments` equal in both, and commit.",
                )
            stated.setdefault(model, path)
        return policies, stated


def _rules(text: bytes, file: str) -> tuple[str, Policy] | None:
    """Return model and policy of a blueprint, or None where the file is none.

    What is wrong elsewhere in it does not matter here; but rules that can't be read must never mean the default ones.
    """
    try:
        blueprint = loads_blueprint(text, file)
    except BlueprintError:
        return _rules_alone(text, file)
    return blueprint.model_name, policy_of(blueprint)


def _rules_alone(text: bytes, file: str) -> tuple[str, Policy] | None:
    try:
        document = read_yaml(text, file)
        data: Any = document.data
        if not isinstance(data, dict) or "pipeline" not in data:
            return None
        name = data.get("model") or data["pipeline"]["name"]
        if not isinstance(name, str) or document.problems:
            raise TypeError("its model's name can't be read")
        review = Review.model_validate_json(msgspec.json.encode(data.get("review", {})))
        stated = data.get("environments")
        places = None if stated is None else _ENVIRONMENTS.validate_json(msgspec.json.encode(stated))
    except (BlueprintError, ValidationError, TypeError, KeyError) as error:
        raise InputError(
            "This blueprint's review rules can't be read, so nothing may be decided or served by them.",
            where=file,
            remedy="Mend it (`modelyard check` says what is wrong), and commit.",
        ) from error
    return name, Policy(
        approvals=review.approvals,
        roles=review.roles,
        require={str(metric): gate for metric, gate in review.require.items()},
        environments=Policy().environments if places is None else tuple(place.name for place in places),
    )
