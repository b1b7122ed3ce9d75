"""Images as people hold them: files, Pillow images, arrays and tensors, one or many."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from feddtl.data.decode import decode_rgb, upright_rgb
from feddtl.errors import DataError
from feddtl.state_folder import AnyPath, expanded

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
OneImage: TypeAlias = AnyPath | Image.Image | Array | torch.Tensor
Images: TypeAlias = OneImage | Iterable[OneImage]

CHANNELS = (1, 3, 4)
ALLOWED = (
    "Give a file, a Pillow image, an array (H, W) or (H, W, 3) or a tensor (3, H, W), with whole numbers 0 to 255 or "
    "fractions 0 to 1, or several of them."
)


@dataclass(frozen=True)
class GivenImage:
    """An image before it is read.

    Attributes:
        content: As it was given.
        name: What it is called in errors: its path, or its position.
    """

    content: OneImage
    name: str

    def decode(self) -> Image.Image:
        """RGB image, as a file of a data set is read. Raises DataError."""
        if isinstance(self.content, Image.Image):
            return upright_rgb(self.content, self.name)
        if isinstance(self.content, torch.Tensor):
            return _from_array(self._channels_last(self.content.detach().cpu()), self.content.shape, self.name)
        if isinstance(self.content, np.ndarray):
            return _from_array(self.content, self.content.shape, self.name)
        if isinstance(self.content, str | os.PathLike):
            return decode_rgb(self._file(self.content), self.name)
        raise DataError(f"The image {self.name} is {type(self.content).__name__}, which is no image.", ALLOWED)

    def _file(self, path: AnyPath) -> Path:
        file = expanded(path)
        if file.is_dir():
            raise DataError(
                f"{self.name} is a folder, not an image.", "feddtl.list_images(FOLDER) returns the images in it."
            )
        return file

    def _channels_last(self, tensor: torch.Tensor) -> Array:
        """(C, H, W) to (H, W, C); a tensor of two dimensions is grey."""
        return np.asarray(tensor.permute(1, 2, 0) if tensor.ndim == 3 else tensor)


def given_images(images: Images) -> Iterator[GivenImage]:
    """Every image with its name; nothing is read, and an iterator is consumed as it is asked for."""
    if isinstance(images, str | bytes | os.PathLike | Image.Image) or _is_one(images):
        images = [images]  # type: ignore[list-item]
    if not isinstance(images, Iterable):
        raise DataError(f"{type(images).__name__} is no image.", ALLOWED)
    for position, image in enumerate(images):
        name = os.fspath(image) if isinstance(image, str | os.PathLike) else f"at position {position}"
        yield GivenImage(image, name)


def _is_one(images: Images) -> bool:
    """Whether an array or a tensor is one image; with four dimensions, it is a batch."""
    return isinstance(images, np.ndarray | torch.Tensor) and images.ndim < 4


def _from_array(pixels: Array, given: Sequence[int], name: str) -> Image.Image:
    """(H, W), (H, W, 1), (H, W, 3) or (H, W, 4) values, given in a shape, to an RGB image; transparency is dropped."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] not in CHANNELS or not pixels.size:
        raise DataError(f"The image {name} has the shape {tuple(given)}.", ALLOWED)
    if np.issubdtype(pixels.dtype, np.floating):
        # NaN is in no range either.
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise DataError(
                f"The image {name} has fractions from {pixels.min():.3g} to {pixels.max():.3g}, outside 0 to 1.",
                f"{ALLOWED} The model's own preprocessing normalises them.",
            )
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise DataError(f"The image {name} has values of type {pixels.dtype}.", ALLOWED + " Whole numbers are uint8.")
    colours = np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels[..., :3]
    return Image.fromarray(np.ascontiguousarray(colours))
