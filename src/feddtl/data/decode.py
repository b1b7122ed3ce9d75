"""Decodes images and identifies them by their content, the same for every source."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from feddtl.errors import DataError

DIGEST_BYTES = 16


@dataclass(frozen=True)
class EncodedImage:
    """An image as its source stores it.

    Attributes:
        content: A file, or the bytes of one.
        name: Name of the image in errors: its path, or data set and row.
    """

    content: Path | bytes
    name: str

    def decode(self) -> Image.Image:
        """RGB image, upright by its EXIF orientation.

        Raises:
            DataError: The image is missing, truncated, or in a format that Pillow cannot read.
        """
        try:
            with Image.open(io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content) as image:
                # In place: otherwise, an image that needs no transposition would be copied.
                ImageOps.exif_transpose(image, in_place=True)
                return _to_rgb(_to_8_bit(image, self.name))
        except DataError:
            raise
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files.
        except Exception as error:
            raise DataError(
                f"Cannot read the image {self.name}: {error}",
                "Replace the file with an intact copy, or remove it from the data set.",
            ) from error

    def digest(self) -> bytes:
        """Digest of the encoded bytes: equal for copies under any name. Raises DataError if there is no such file."""
        try:
            encoded = self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        except OSError as error:
            raise DataError(
                f"Cannot read the image {self.name}: {error.strerror}.",
                "Restore the file, or remove it from the data set.",
            ) from None
        return hashlib.blake2b(encoded, digest_size=DIGEST_BYTES).digest()


def pixel_digest(width: int, height: int, pixels: bytes) -> bytes:
    """Digest of an image's RGB pixels, row by row."""
    size = b"%d x %d" % (width, height)
    return hashlib.blake2b(pixels, digest_size=DIGEST_BYTES, person=size.ljust(16)[:16]).digest()


def _to_rgb(image: Image.Image) -> Image.Image:
    """The image itself if it is RGB, because `convert` would copy it."""
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()
    return image


def _to_8_bit(image: Image.Image, name: str) -> Image.Image:
    """Scales 16-bit grey to 8 bits, which Pillow's own conversion clips to white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(
            f"The image {name} has 32-bit pixels (Pillow mode {image.mode}), whose range is unknown.",
            "Save the image with 8 or 16 bits per channel.",
        )
    return image
