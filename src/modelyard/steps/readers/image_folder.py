"""Read a folder of images, or an archive of it: each sub-folder is a class."""

from __future__ import annotations

import tarfile
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.errors import DataError, MissingExtraError
from modelyard.files import storage_errors
from modelyard.steps.readers.request import Request, wanted_columns

try:
    from PIL import Image, ImageOps
except ImportError:  # the extra `images`; a step that needs it says so
    Image = None  # type: ignore[assignment]  # stands for a module that is not there

__all__ = ["read"]

# What Pillow's decoders raise on damaged files; a decompression bomb is a warning first, then an error.
_DAMAGE: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, EOFError, zlib.error, Warning)
if Image is not None:
    _DAMAGE = (*_DAMAGE, Image.DecompressionBombError)

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})


def read(request: Request) -> dict[str, NDArray[Any]]:
    """Return `image` (uint8) and `label` (the sub-folder's name), in the order of the paths.

    Grey images have rows x columns; where one has colour, all have 3 x rows x columns (red, green, blue).

    Raises:
        DataError: There are no sub-folders or no images, an image is damaged, or sizes differ and `image_size` is
            not given; it names the image.
        MissingExtraError: Pillow is not installed.
    """
    if Image is None:
        raise MissingExtraError(
            "Images need Pillow, which is not installed.",
            where=request.name,
            remedy="Install it with `pip install 'modelyard[images]'`.",
        )
    root = request.data if request.data.is_dir() else _unpacked(request)
    with storage_errors(root):
        files = _images(root, request)
    modes = {_mode(path, root, request) for path, _ in files}
    mode = "L" if modes <= {"1", "L", "LA"} else "RGB"
    first = _pixels(files[0][0], root, request, mode)
    images = np.empty((len(files), *first.shape), dtype=np.uint8)
    for index, (path, _) in enumerate(files):
        pixels = _pixels(path, root, request, mode)
        if pixels.shape != first.shape:
            raise DataError(
                f"The image has {_size(pixels)} pixels, the first one has {_size(first)}.",
                where=_place(path, root, request),
                remedy="Give `image_size: [rows, columns]`, and every image is resized.",
            )
        images[index] = pixels
    columns = {"image": images, "label": np.array([label for _, label in files], dtype=np.str_)}
    return {name: columns[name] for name in wanted_columns(request, columns)}


def _images(root: Path, request: Request) -> list[tuple[Path, str]]:
    folders = _folders(root)
    while len(folders) == 1 and _folders(folders[0]) and not _files(folders[0]):
        folders = _folders(folders[0])
    stray = _files(root)
    if stray and folders:
        raise DataError(
            "The image lies in no class's folder.",
            where=_place(stray[0], root, request),
            remedy="Move it into a sub-folder named after its class.",
        )
    files = [(path, folder.name) for folder in folders for path in _files(folder)]
    if not files:
        raise DataError(
            "There are no images in sub-folders.",
            where=request.name,
            remedy="Give each class a sub-folder with its images: cat/1.png, dog/1.png.",
        )
    return files


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
    )


def _mode(path: Path, root: Path, request: Request) -> str:
    with storage_errors(path):
        try:
            with Image.open(path) as image:
                return str(image.mode)
        except _DAMAGE as error:
            raise _damaged(path, root, request, error) from error


def _pixels(path: Path, root: Path, request: Request, mode: str) -> NDArray[np.uint8]:
    with storage_errors(path), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            with Image.open(path) as opened:
                image = ImageOps.exif_transpose(opened).convert(mode)
        except _DAMAGE as error:
            raise _damaged(path, root, request, error) from error
    if request.image_size is not None:
        rows, columns = request.image_size
        image = image.resize((columns, rows), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels if mode == "L" else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _damaged(path: Path, root: Path, request: Request, error: Exception) -> Exception:
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return DataError(
        f"The image can't be read: {error}.",
        where=_place(path, root, request),
        remedy="Remove it, or save it again.",
    )


def _size(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[-2]} x {pixels.shape[-1]}"


def _place(path: Path, root: Path, request: Request) -> str:
    return f"{request.name}/{path.relative_to(root)}"


def _unpacked(request: Request) -> Path:
    with storage_errors(request.workdir):
        target = Path(tempfile.mkdtemp(prefix="images-", dir=request.workdir))
        try:
            if zipfile.is_zipfile(request.data):
                with zipfile.ZipFile(request.data) as archive:
                    archive.extractall(target)  # noqa: S202  (zipfile drops `..` and absolute names)
            elif tarfile.is_tarfile(request.data):
                with tarfile.open(request.data) as archive:
                    archive.extractall(target, filter="data")
            else:
                raise DataError(
                    "This is neither a folder nor a .zip or .tar archive.",
                    where=request.name,
                    remedy="Name the folder that has a sub-folder for each class.",
                )
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, RuntimeError) as error:
            raise DataError(
                f"The archive is damaged: {error}.", where=request.name, remedy="Get the file again."
            ) from error
    return target
