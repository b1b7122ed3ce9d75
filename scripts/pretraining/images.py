"""CIFAR as arrays of pixels, and the fixed rule by which CIFAR-10's training images are halved."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from feddtl.config import DataConfig
from feddtl.data.decode import pixel_digest
from feddtl.data.loading import read_ahead, thread_count
from feddtl.data.sources import load_dataset
from feddtl.data.table import ImageDataset, ImageTable, Indices
from feddtl.errors import DataError
from feddtl.storage import new_folder
from pretraining.folder import IMAGE_SIDE

ByteArray = np.ndarray[Any, np.dtype[np.uint8]]
PRETRAINING, FEDERATION = "cifar10-pretraining", "cifar10-federation"


@dataclass(frozen=True)
class Pixels:
    """Images in memory.

    Attributes:
        images: (N, 32, 32, 3) bytes.
        labels: (N,) class ids.
        class_names: Name per class id.
    """

    images: ByteArray
    labels: Indices
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, at: Indices) -> Pixels:
        """The images at these positions, in this order."""
        return Pixels(self.images[at], self.labels[at], self.class_names)

    def identity(self) -> str:
        """Hexadecimal digest of the images, their order and their classes."""
        found = hashlib.blake2b(self.images.data, digest_size=16)
        found.update(self.labels.tobytes() + "\n".join(self.class_names).encode())
        return found.hexdigest()


def load_images(name: str, root: Path | None) -> tuple[Pixels, Pixels]:
    """Training and test images of a data set.

    Args:
        name: `cifar10` or `cifar100`: the catalogue's name, and the folder's.
        root: Folder with the data set as parquet in a subfolder of that name; None for the Hub.

    Raises:
        DataError: The data cannot be found or read, or its images do not have 32 x 32 pixels.
    """
    if root is not None and not (root / name).is_dir():
        raise DataError(
            f"There is no folder {root / name}.",
            f"Put {name} there as train-*.parquet and test-*.parquet, or omit --data-root to use the Hub.",
        )
    # An absolute path is never mistaken for a name in the catalogue.
    dataset = load_dataset(DataConfig(source=name if root is None else str((root / name).absolute())))
    return _decoded(dataset, dataset.train), _decoded(dataset, dataset.test)


def _decoded(dataset: ImageDataset, table: ImageTable) -> Pixels:
    images = np.empty((len(table), IMAGE_SIDE, IMAGE_SIDE, 3), np.uint8)
    for index, image in enumerate(read_ahead(table.read, range(len(table)), threads=thread_count(0), ahead=64)):
        if image.size != (IMAGE_SIDE, IMAGE_SIDE):
            raise DataError(
                f"Image {index} of {dataset.name} has {image.width} x {image.height} pixels.",
                f"Use a copy of {dataset.name} in its original size, {IMAGE_SIDE} x {IMAGE_SIDE}.",
            )
        images[index] = np.asarray(image)
    return Pixels(images, table.labels, dataset.class_names)


def halves(pixels: Pixels) -> tuple[Pixels, Pixels]:
    """Half for pre-training and half for federation, by a rule that does not depend on row order or seed.

    In each class, the images are sorted by the digest of their pixels; the first half, rounded down, is for
    pre-training. A lossless copy gives the same halves. A JPEG copy has different pixels and therefore different
    halves.
    """
    digests = np.array([pixel_digest(IMAGE_SIDE, IMAGE_SIDE, image.tobytes()).hex() for image in pixels.images])
    order = np.lexsort((digests, pixels.labels))
    counts = np.bincount(pixels.labels, minlength=len(pixels.class_names))
    ranks = np.arange(len(pixels)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = ranks < np.repeat(counts // 2, counts)
    return pixels.select(order[first]), pixels.select(order[~first])


def joined(parts: list[Pixels]) -> Pixels:
    """Several data sets as one; a class name that occurs in two of them becomes one class."""
    names = tuple(dict.fromkeys(name for part in parts for name in part.class_names))
    ids = [np.array([names.index(name) for name in part.class_names], np.int64)[part.labels] for part in parts]
    return Pixels(np.concatenate([part.images for part in parts]), np.concatenate(ids), names)


def write_halves(folder: Path, pretraining: Pixels, federation: Pixels, test: Pixels) -> None:
    """Write both halves as parquet in Hub format; the half for federation includes the test images.

    Raises:
        RunError: The folder cannot be written.
    """
    with new_folder(folder) as draft:
        for name, splits in ((PRETRAINING, {"train": pretraining}), (FEDERATION, {"train": federation, "test": test})):
            (draft / name).mkdir()
            for split, pixels in splits.items():
                _write_parquet(draft / name / f"{split}-00000-of-00001.parquet", pixels)


def _write_parquet(path: Path, pixels: Pixels) -> None:
    import datasets as hf

    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=list(pixels.class_names))})
    rows = {"image": [{"bytes": _png(image), "path": None} for image in pixels.images], "label": pixels.labels}
    hf.Dataset.from_dict(rows, features=features).to_parquet(path)


def _png(image: ByteArray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "PNG")
    return encoded.getvalue()
