"""Image files by their names."""

from __future__ import annotations

import os
from pathlib import Path

IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"])


def holds_images(path: Path) -> bool:
    """Whether a file, or a folder with all folders in it, may have images: by the names of files alone."""
    if path.is_file():
        return True
    suffixes = {*IMAGE_SUFFIXES, ".parquet"}
    folders = os.walk(path, followlinks=True)
    return any(Path(name).suffix.lower() in suffixes for _, _, names in folders for name in names)
