"""The image files that some paths name: files as they are, folders with everything below them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from feddtl.data.decode import EncodedImage
from feddtl.data.file_tree import Leftovers, entries
from feddtl.data.image_files import READ_FORMATS
from feddtl.data.table import ImageTable
from feddtl.errors import DataError
from feddtl.state_folder import AnyPath, expanded


def list_images(
    paths: AnyPath | Iterable[AnyPath],
    *,
    skip_unread: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """The images of files and folders, in the order given; those of a folder in alphabetical order, at any depth.

    A file that is named itself is taken whatever its ending. In folders, hidden names and those of the system are left
    out, and files that are no images are noted. Texts, because 100,000 of them take less memory than `Path`s.

    Args:
        paths: One or more files and folders.
        skip_unread: Whether broken links and images in a format that is not read are noted instead of refused.
        note: Called with notes for the user.

    Raises:
        DataError: There is no such file or folder, an image of a folder certainly cannot be read, or there is no image.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found: list[str] = []
    for path in given:
        root = expanded(path)
        try:
            found += _images_of(root, skip_unread=skip_unread, note=note)
        except OSError as error:
            raise DataError(f"Cannot read {root}: {error.strerror}.", "Check the path and your permissions.") from None
    if not given:
        raise DataError("No image was named.", "Name image files, or folders with images.")
    if not found:
        named = ", ".join(str(path) for path in given)
        raise DataError(f"There is no image in {named}.", f"Formats that are read: {READ_FORMATS}.")
    return found


def _images_of(root: Path, *, skip_unread: bool, note: Callable[[str], None]) -> list[str]:
    if not root.is_dir():
        root.stat()
        return [str(root)]
    left = Leftovers()
    found = list(_below(root, left, ()))
    if skip_unread:
        for file in (*left.broken, *left.unread):
            note(f"Skipped {file}: {'it is a broken link' if file in left.broken else 'its format is not read'}.")
    else:
        left.check(root)
    if text := left.note(root):
        note(text)
    return found


def _below(path: Path, left: Leftovers, above: tuple[str, ...]) -> Iterator[str]:
    real = os.path.realpath(path)
    if real in above:  # a link to a folder above
        return
    folders, images = entries(path, left)
    yield from map(str, images)
    for folder in folders:
        yield from _below(folder, left, (*above, real))


def table_of(files: Sequence[str]) -> ImageTable:
    """Image files as a table, with class and domain 0."""
    zeros = np.zeros(len(files), dtype=np.int64)
    return ImageTable(lambda row: EncodedImage(Path(files[row]), files[row]), np.arange(len(files)), zeros, zeros)
