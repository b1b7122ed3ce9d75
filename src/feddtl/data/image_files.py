"""Image files by their names."""

from __future__ import annotations

import os
from pathlib import Path

IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"])


def contains_images(path: Path) -> bool:
    """Whether a file, or a folder with its sub-folders, may contain images, judged only by file names.

    Raises:
        OSError: A folder cannot be read.
    """
    if path.is_file():
        return True
    suffixes, seen = {*IMAGE_SUFFIXES, ".parquet"}, set()
    for folder, below, names in os.walk(path, onerror=_fail, followlinks=True):
        if any(Path(name).suffix.lower() in suffixes for name in names):
            return True
        real = os.path.realpath(folder)
        if real in seen:  # a link back to a folder above
            below.clear()
        seen.add(real)
    return False


def _fail(error: OSError) -> None:
    raise error
