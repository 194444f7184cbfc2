"""What a new project starts from."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from modelyard.errors import InputError
from modelyard.files import storage_errors, write_atomically

__all__ = ["TEMPLATES", "write_template"]

TEMPLATES = {
    "digits": "MNIST from IDX files: a multi-layer perceptron, and a convolutional network beside it.",
    "digits-small": "scikit-learn's 1,797 digits from one NPZ file: a small perceptron; no download.",
}


def write_template(folder: Path, template: str) -> list[Path]:
    """Write a template's files into a folder; a file that is there already is never overwritten.

    Returns:
        The files that were written.

    Raises:
        InputError: No template has that name, or one of its files exists with other content.
    """
    if template not in TEMPLATES:
        raise InputError(f"There is no template {template!r}.", remedy=f"The templates are {', '.join(TEMPLATES)}.")
    source = resources.files("modelyard") / "templates" / template
    content = {
        entry.name: entry.read_bytes()
        for entry in sorted(source.iterdir(), key=lambda entry: entry.name)
        if entry.is_file()
    }
    with storage_errors(folder):
        clash = [
            name for name, data in content.items() if (folder / name).exists() and (folder / name).read_bytes() != data
        ]
    if clash:
        raise InputError(
            f"{', '.join(clash)} {'exist' if len(clash) > 1 else 'exists'} already; nothing was written.",
            where=str(folder),
            remedy="Choose an empty folder, or move the file away.",
        )
    written = []
    for name, data in content.items():
        # A wheel cannot carry a file called .gitignore through every tool, so templates call it `gitignore`.
        target = folder / (".gitignore" if name == "gitignore" else name)
        if not target.exists():
            write_atomically(target, data)
            written.append(target)
    return written
