"""Small pictures and the real image sets, for the tests of the data package."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeFolder = Callable[..., Path]
MakeParquet = Callable[..., Path]


def grey_value(text: str) -> int:
    """A grey that stands for a text, so that a test can tell which image it has read."""
    return sum(text.encode()) % 200 + 20


def picture(value: int, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> Image.Image:
    """A picture of one value."""
    array = np.full((size[1], size[0]), value, np.uint8)
    return Image.fromarray(array).convert(mode)


def png_bytes(image: Image.Image) -> bytes:
    """The image as an encoded PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def real_data(name: str) -> Path:
    """Folder of a real data set in Hub format, or a visible skip."""
    shared = Path(os.environ.get("FEDDTL_SHARED", Path(__file__).parents[2] / ".." / "shared"))
    folder = shared / "data" / name
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; set FEDDTL_SHARED to the folder that holds data/{name}")
    return folder
