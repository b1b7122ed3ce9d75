"""Small pictures and the real image sets, for the tests of the data package."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feddtl.config import DataConfig
from feddtl.data.sources import load_dataset
from feddtl.data.table import ImageDataset

MakeFolder = Callable[..., Path]
MakeParquet = Callable[..., Path]


# Two classes with a training and a test split; for `make_folder`.
SPLITS = ("train/cat/0.png", "train/cat/1.png", "train/dog/0.png", "test/cat/2.png", "test/dog/1.png")


def grey_value(text: str) -> int:
    """A grey that stands for a text, so that a test knows which image it has read."""
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


def load(source: str | Path, **settings: str) -> ImageDataset:
    """The data set of a source, with other settings of `[data]` if given."""
    return load_dataset(DataConfig(source=str(source), **settings))  # type: ignore[arg-type]


def greys(dataset: ImageDataset) -> list[int]:
    return [dataset.train.read(i).getpixel((0, 0))[0] for i in range(len(dataset.train))]  # type: ignore[index]


def per_class(dataset: ImageDataset) -> tuple[list[int], list[int]]:
    size = len(dataset.class_names)
    return tuple(np.bincount(t.labels, minlength=size).tolist() for t in (dataset.train, dataset.test))  # type: ignore[return-value]
