"""The errors of Modelyard, and nothing else.

A user sees `what`, `where` and `remedy`; a program sees the class and its `code`::

    ModelyardError                      exit 1   anything the program could not do
    ├── InputError                      exit 2   what was given is wrong
    │   ├── BlueprintError                       one or more problems in a blueprint, each with line and column
    │   ├── SettingsError                        modelyard.toml or a MODELYARD_ variable
    │   ├── DataError                            a data file: row, column, checksum, format
    │   ├── ContractError                        values that do not fit a model's contract
    │   │   └── TooManyRowsError                 more rows than one request may have
    │   ├── NotFoundError                        a run, step, version, object or service of that name
    │   └── MissingExtraError                    an optional library that this step needs
    ├── RefusedError                    exit 3   a rule or a role forbids it
    │   ├── UnauthenticatedError                 a service does not know who asks
    │   └── ForbiddenError                       a service knows who asks, and that is not allowed
    ├── IntegrityError                  exit 4   bytes differ from their digest, or a signature from its text
    ├── BusyError                       exit 5   somebody else holds it: try again
    ├── StorageError                    exit 6   a full disk, a read-only folder, a remote that does not answer
    └── RunError                        exit 7   a run did not succeed
        ├── StepError                            the step's own code raised
        ├── StepTimeoutError                     the step passed its timeout
        ├── WorkerLostError                      the process that ran the step died
        └── MinimumNotMetError                   a metric stayed under the minimum that the blueprint asks for
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "ModelyardError",
    "InputError",
    "BlueprintError",
    "Problem",
    "SettingsError",
    "DataError",
    "ContractError",
    "TooManyRowsError",
    "NotFoundError",
    "MissingExtraError",
    "RefusedError",
    "UnauthenticatedError",
    "ForbiddenError",
    "IntegrityError",
    "BusyError",
    "StorageError",
    "RunError",
    "StepError",
    "StepTimeoutError",
    "WorkerLostError",
    "MinimumNotMetError",
]


class ModelyardError(Exception):
    """Something Modelyard could not do.

    Args:
        what: One sentence: what went wrong.
        where: The place: a file with line and column, a key, a row, a run and step. None where there is no place.
        remedy: One sentence in the imperative: what to do about it. None where nothing can be advised.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f" {self.remedy}" if self.remedy else ""
        return f"{place}{self.what}{advice}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling between worker processes.
        return (_rebuild, (type(self), self.what, self.where, self.remedy))


def _rebuild(kind: type[ModelyardError], what: str, where: str | None, remedy: str | None) -> ModelyardError:
    return kind(what, where=where, remedy=remedy)


class InputError(ModelyardError):
    """What was given is wrong; nothing was changed."""

    code = "input"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a file.

    Args:
        what: One sentence.
        file: The file as the user named it.
        line: Counted from 1; 0 where the whole file is meant.
        column: Counted from 1; 0 where the whole line is meant.
        key: The dotted path of the key, such as `steps[2].alpha`.
        remedy: What to do, often the nearest valid key.
    """

    what: str
    file: str
    line: int = 0
    column: int = 0
    key: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        place = self.file
        if self.line:
            place += f":{self.line}"
            if self.column:
                place += f":{self.column}"
        key = f"{self.key}: " if self.key else ""
        advice = f" {self.remedy}" if self.remedy else ""
        return f"{place}: {key}{self.what}{advice}"


class BlueprintError(InputError):
    """All problems of a blueprint at once.

    Args:
        problems: In the order of the file; at least one.
    """

    code = "blueprint"

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems

    def __reduce__(self) -> tuple[object, ...]:
        return (BlueprintError, (self.problems,))


class SettingsError(InputError):
    """A setting in `modelyard.toml` or a `MODELYARD_` variable is wrong."""

    code = "settings"


class DataError(InputError):
    """A data file is missing, damaged, or does not hold what the blueprint says."""

    code = "data"


class ContractError(InputError):
    """Values do not fit a model's contract; `where` names the row and the field."""

    code = "contract"


class TooManyRowsError(ContractError):
    """A request has more rows than the service takes at once."""

    code = "too-many-rows"


class NotFoundError(InputError):
    """Nothing of that name exists."""

    code = "not-found"


class MissingExtraError(InputError):
    """An optional library is not installed; the remedy is the pip line that installs it."""

    code = "missing-extra"


class RefusedError(ModelyardError):
    """A review rule or a role forbids it; nothing was recorded."""

    code = "refused"
    exit_code = 3


class UnauthenticatedError(RefusedError):
    """A service does not know who asks: credentials are missing, unknown, expired or revoked.

    Args:
        what: As for every error.
        where: As for every error.
        remedy: As for every error.
        challenge: What the answer's `WWW-Authenticate` says (RFC 6750, 3).
    """

    code = "unauthenticated"

    def __init__(
        self, what: str, *, where: str | None = None, remedy: str | None = None, challenge: str = "Bearer"
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.challenge = challenge


class ForbiddenError(RefusedError):
    """A service knows who asks, and these credentials do not allow it.

    Args:
        what: As for every error.
        where: As for every error.
        remedy: As for every error.
        challenge: What the answer's `WWW-Authenticate` says (RFC 6750, 3.1); empty where other credentials would not
            help.
    """

    code = "forbidden"

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None, challenge: str = "") -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.challenge = challenge


class IntegrityError(ModelyardError):
    """Bytes differ from their digest, or a signature does not fit its text."""

    code = "integrity"
    exit_code = 4


class BusyError(ModelyardError):
    """Another process holds what is needed; trying again later is right."""

    code = "busy"
    exit_code = 5


class StorageError(ModelyardError):
    """The disk is full, a folder can't be written, or a remote store does not answer."""

    code = "storage"
    exit_code = 6


class RunError(ModelyardError):
    """A run did not succeed; its record says which step and why."""

    code = "run"
    exit_code = 7


class StepError(RunError):
    """A step's own code raised an exception; its traceback stands in the step's log."""

    code = "step"


class StepTimeoutError(RunError):
    """A step ran longer than its timeout and was killed."""

    code = "step-timeout"


class WorkerLostError(RunError):
    """The process that ran a step died: a crash, an out-of-memory kill, a signal."""

    code = "worker-lost"


class MinimumNotMetError(RunError):
    """A metric stayed under (for errors: over) what the blueprint asks for.

    Args:
        what: As for every error.
        where: As for every error.
        remedy: As for every error.
        outputs: What the step made all the same, by output: kept with the failure, so that people can look at it.
    """

    code = "minimum-not-met"

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        remedy: str | None = None,
        outputs: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.outputs = dict(outputs or {})
