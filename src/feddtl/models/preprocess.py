"""Image preprocessing, bit-identical to transformers' processor and faster, and random crops."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# The random views of CLIP's few-shot literature (CoOp): RandomResizedCrop and a flip.
CROP_AREA = (0.08, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10
# Settings of a processor of transformers, beside its switches, which begin with "do_".
OF_PIXELS = ("size", "crop_size", "resample", "rescale_factor", "image_mean", "image_std")
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class PlainTransform:
    """Resize, centre crop, rescale and normalise: the steps of nearly all CLIP processors.

    Attributes:
        resize_to: The shorter side after resizing, or (width, height).
        crop: (width, height) of the centre crop; fits into every resized image.
        resample: Pillow's filter.
        largest: Divisor of the bytes.
        mean: Per channel, subtracted next.
        std: Per channel, the last divisor.
    """

    resize_to: int | tuple[int, int]
    crop: tuple[int, int]
    resample: Image.Resampling
    largest: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def cut(self, image: Image.Image) -> Tensor:
        """RGB image to (H, W, 3) bytes."""
        resized = image.resize(self._resized_size(image.size), self.resample)
        left, top = ((have - want) // 2 for have, want in zip(resized.size, self.crop, strict=True))
        return _as_bytes(resized.crop((left, top, left + self.crop[0], top + self.crop[1])))

    def squeeze(self, image: Image.Image) -> Tensor:
        """RGB image resized to the crop's size, whatever its proportions: (H, W, 3) bytes."""
        return _as_bytes(image.resize(self.crop, self.resample))

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) bytes to (B, 3, H, W) pixel values, with the operations of the processor in its order."""
        values = pixels.permute(0, 3, 1, 2).contiguous().float().div_(self.largest)
        mean, std = (torch.tensor(part, device=pixels.device).view(3, 1, 1) for part in (self.mean, self.std))
        return values.sub_(mean).div_(std)

    def _resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        if isinstance(self.resize_to, tuple):
            return self.resize_to
        width, height = size
        longer = int(self.resize_to * max(size) / min(size))
        return (self.resize_to, longer) if width <= height else (longer, self.resize_to)


class Preprocessing:
    """RGB images to pixel values, in two steps: one image in any thread, then a batch on any device.

    Args:
        load: Returns a processor of transformers; called for the first image. The processor itself is used if its
            settings are unusual.
        identity: Everything that determines the pixel values, as JSON; None: asked of the processor.
        plain: Returns the fast transform that is equal to a processor, or None if there is none.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        identity: Mapping[str, Any] | None = None,
        plain: Callable[[Any], PlainTransform | None] | None = None,
    ) -> None:
        self._load = load
        self._identity = identity
        self._plain_of = plain or plain_transform

    @classmethod
    def of(cls, processor: Any) -> Preprocessing:
        """With a loaded processor."""
        return cls(lambda: processor)

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """Everything that determines the pixel values, as JSON."""
        return self._identity or preprocessing_identity(self._processor)

    @cached_property
    def _processor(self) -> Any:
        return self._load()

    @cached_property
    def _plain(self) -> PlainTransform | None:
        return self._plain_of(self._processor)

    def cut(self, image: Image.Image) -> Tensor:
        """The test transform of one image up to normalisation; `finish` takes a batch of results."""
        return self._plain.cut(_as_rgb(image)) if self._plain else self._processed(image)

    def view(self, image: Image.Image, view: int, key: bytes) -> Tensor:
        """As `cut`, for one view: 0 is the test transform, others are random crops, mirrored half of the time.

        The crop depends only on `key`, the `view_key` of image and view.
        """
        if view == 0:
            return self.cut(image)
        generator = np.random.Generator(np.random.PCG64(int.from_bytes(key)))
        part = _as_rgb(image).crop(random_box(image.size, generator))
        if generator.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self._plain.squeeze(part) if self._plain else self._processed(part)

    def finish(self, batch: Tensor) -> Tensor:
        """(B, 3, H, W) pixel values from a batch of results of `cut`, on its device."""
        return self._plain.normalise(batch) if self._plain else batch

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Test transform: RGB images of any size to (B, 3, H, W) pixel values."""
        return self.finish(torch.stack([self.cut(image) for image in images]))

    def _processed(self, image: Image.Image) -> Tensor:
        pixels: Tensor = self._processor(images=[image], return_tensors="pt")["pixel_values"]
        return pixels[0]


def view_key(digest: bytes, view: int) -> bytes:
    """16 bytes that identify a view of an image by the image's content."""
    return hashlib.blake2b(digest + view.to_bytes(4), digest_size=16).digest()


def preprocessing_identity(processor: Any) -> dict[str, Any]:
    """Settings of a processor of transformers as JSON, sorted by name."""
    settings: dict[str, Any] = json.loads(json.dumps(processor.to_dict(), default=str, sort_keys=True))
    return settings


def pixel_settings(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings of a `Preprocessing.identity` that pixels depend on; versions of transformers store others too."""
    chosen = {name: value for name, value in identity.items() if name.startswith("do_") or name in OF_PIXELS}
    return {
        name: {key: part for key, part in value.items() if part is not None} if isinstance(value, Mapping) else value
        for name, value in (chosen or identity).items()
        if value is not None
    }


def plain_transform(processor: Any) -> PlainTransform | None:
    """The equal of a processor; None if its settings require more than resize, centre crop, rescale, normalise."""
    usual = all(getattr(processor, f"do_{step}", False) for step in ("resize", "center_crop", "rescale", "normalize"))
    unusual = getattr(processor, "do_pad", None) or type(processor).__name__ != "CLIPImageProcessorPil"
    if not usual or unusual or isinstance(processor.image_mean, float) or isinstance(processor.image_std, float):
        return None
    size, crop = dict(processor.size), dict(processor.crop_size)
    given = {name: value for name, value in size.items() if value is not None}
    resize_to: int | tuple[int, int]
    if given.keys() == {"shortest_edge"}:
        resize_to, smallest = given["shortest_edge"], (given["shortest_edge"],) * 2
    elif given.keys() == {"height", "width"}:
        resize_to = smallest = (given["width"], given["height"])
    else:
        return None
    crop_size = (crop["width"], crop["height"])
    fits = crop_size[0] <= smallest[0] and crop_size[1] <= smallest[1]
    largest = round(1 / processor.rescale_factor)
    if not fits or not _divides_like(largest, processor.rescale_factor):
        return None
    mean, std = (tuple(map(float, part)) for part in (processor.image_mean, processor.image_std))
    return PlainTransform(resize_to, crop_size, Image.Resampling(processor.resample), float(largest), mean, std)


def random_box(size: tuple[int, int], generator: np.random.Generator) -> Box:
    """(left, top, right, bottom) of a random crop, drawn like torchvision's RandomResizedCrop."""
    width, height = size
    for _ in range(CROP_ATTEMPTS):
        area = width * height * generator.uniform(*CROP_AREA)
        ratio = math.exp(generator.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(generator.integers(width - crop_width + 1))
            top = int(generator.integers(height - crop_height + 1))
            return left, top, left + crop_width, top + crop_height
    # A very long or very small image: the largest allowed crop of its middle.
    crop_width = min(width, round(height * CROP_RATIO[1]))
    crop_height = min(height, round(width / CROP_RATIO[0]))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def _divides_like(largest: int, factor: float) -> bool:
    """Whether dividing in float32 is equal to the processor's product in float64 for every byte."""
    levels = np.arange(256)
    return bool(np.array_equal((levels * factor).astype(np.float32), levels.astype(np.float32) / np.float32(largest)))


def _as_bytes(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))


def _as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")
