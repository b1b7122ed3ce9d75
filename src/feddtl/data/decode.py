"""One way to decode an image, whatever source it comes from."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from feddtl.errors import DataError


def decode_rgb(source: Path | bytes, where: str) -> Image.Image:
    """RGB image, upright by its EXIF orientation.

    Args:
        source: A file, or the bytes of one.
        where: What the error calls the image: its path, or data set and row.

    Raises:
        DataError: The image is missing, truncated, or in a format that Pillow cannot read.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            upright = ImageOps.exif_transpose(image)
            return _to_8_bit(upright, where).convert("RGB")
    except DataError:
        raise
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files.
    except Exception as error:
        raise DataError(
            f"Cannot read the image {where}: {error}",
            "Replace the file with an intact copy, or remove it from the data set.",
        ) from error


def _to_8_bit(image: Image.Image, where: str) -> Image.Image:
    """Scales 16-bit grey to 8 bits, which Pillow's own conversion clips to white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(
            f"The image {where} has 32-bit pixels (Pillow mode {image.mode}), whose range is not known.",
            "Save it with 8 or 16 bits per channel.",
        )
    return image
