"""The one place where settings become objects, and where what the command line does is one call each."""

from __future__ import annotations

from pathlib import Path

from modelyard.yard import rooms
from modelyard.yard.run import Run
from modelyard.yard.yard import Yard

__all__ = ["Run", "Yard", "init", "open"]


def open(folder: Path | str = ".") -> Yard:  # noqa: A001  (modelyard.open(".") is how a project is opened)
    """Open the project that a folder lies in.

    Args:
        folder: The project folder, or one inside it. Default: the current one.

    Raises:
        NotFoundError: There is no project here.
        SettingsError: `modelyard.toml` or a `MODELYARD_` variable is wrong.
    """
    return Yard.open(folder)


def init(folder: Path | str = ".", *, template: str = "digits", people: str = "you") -> Yard:
    """Start a project in a folder, make it a Git repository and commit it; then open it.

    Args:
        folder: Created where it is missing.
        template: `digits` or `digits-small`.
        people: `you` names Git's `user.email` with its SSH key; `demo` makes a data scientist and a manager.

    Raises:
        InputError: No such template, or one of its files exists with other content; nothing was written.
    """
    return Yard.open(rooms.begin(Path(folder), template=template, people=people))
