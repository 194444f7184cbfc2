"""The one place where settings become objects, and where what the command line does is one call each."""

from __future__ import annotations

from pathlib import Path

from modelyard.yard.project import write_template
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


def init(folder: Path | str = ".", *, template: str = "digits") -> Yard:
    """Start a project: write a template's files into a folder and open it.

    Args:
        folder: Created where it is missing; made a Git repository where it is none.
        template: `digits` or `digits-small`.

    Raises:
        InputError: No such template, or one of its files exists with other content; nothing was written.
    """
    target = Path(folder)
    write_template(target, template)
    return Yard.open(target)
