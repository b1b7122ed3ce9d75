"""Pixels of any depth and mode as 8-bit RGB."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from feddtl.errors import DataError

# 12 bits in a file of 16 have no brighter value; as 16 bits they would look black.
DARKEST = 1 << 12
_BITS_PER_SAMPLE, _PHOTOMETRIC, _LARGEST_VALUE = 258, 262, 281  # TIFF 6.0, baseline and extension tags
_WHITE_IS_ZERO = 0


@dataclass(frozen=True)
class Depth:
    """How a file stores its samples.

    Attributes:
        bits: Bits that a grey value uses, 9 to 16; white is 2^bits - 1.
        deep: Whether colours have 16 bits, of which Pillow keeps the upper 8.
        inverted: Whether 0 is white.
        scaled: Whether Pillow scales the values of a 32-bit grey image to 16 bits.
    """

    bits: int = 16
    deep: bool = False
    inverted: bool = False
    scaled: bool = False


def stored_depth(image: Image.Image) -> Depth:
    """How the file of an opened image stores its samples; must be called before its pixels are loaded."""
    tags = getattr(image, "tag_v2", {})
    tile = next(iter(getattr(image, "tile", ())), None)
    arguments = tile[3] if tile else ()
    words = arguments if isinstance(arguments, tuple) else (arguments,)
    largest = _first(tags.get(_LARGEST_VALUE)) or (1 << (_first(tags.get(_BITS_PER_SAMPLE)) or 16)) - 1
    portable = image.format == "PPM"
    return Depth(
        bits=largest.bit_length() if 8 < largest.bit_length() <= 16 else 16,
        deep=any(isinstance(word, str) and ";16" in word for word in words)
        or (portable and any(isinstance(word, int) and word > 255 for word in words)),
        inverted=tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO,
        scaled=portable,
    )


def eight_bit_rgb(image: Image.Image, depth: Depth, name: str) -> Image.Image:
    """The image with 8 bits per channel; the image itself if it is such an image.

    Grey values of 16 bits lose their lower 8. Transparency is dropped.

    Args:
        image: A loaded image.
        depth: How its file stores it, see `stored_depth`.
        name: Its name in errors.

    Raises:
        DataError: Its pixels have 32 bits; or have 16, of which the brightest is below `DARKEST`; or its colours cannot
            be converted.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and depth.scaled):
        return _from_grey(np.asarray(image), depth, name)
    if image.mode in ("I", "F"):
        raise DataError(
            f"The image {name} has 32-bit pixels, or signed ones (Pillow mode {image.mode}), whose range is unknown.",
            "Save the image with 8 or 16 bits per channel.",
        )
    if image.mode == "RGB":
        rgb = image
    else:
        try:
            rgb = image.convert("RGB")
        except ValueError:
            raise DataError(
                f"The image {name} has colours that cannot be converted to RGB (Pillow mode {image.mode}).",
                "Save the image in RGB or grey.",
            ) from None
    # Pillow rounds where it scales, and cuts off elsewhere.
    if depth.deep and (brightest := int(np.asarray(rgb).max(initial=0))) < (DARKEST >> 8) + depth.scaled:
        # The lower bytes are lost: black, or values of 8 bits that look black.
        raise _nearly_black(name, "all" if brightest else f"all of them 0 or below {1 << 8} and so")
    return rgb


def largest_of_16_bits(image: Image.Image) -> int | None:
    """The largest value of an opened image of 16 bits, of colours roughly; None if its file states fewer bits."""
    depth = stored_depth(image)
    grey = image.mode.startswith("I;16") or (image.mode == "I" and depth.scaled)
    if depth.bits != 16 or not (grey or depth.deep):
        return None
    image.load()
    largest = int(np.asarray(image).max(initial=0))
    return largest if grey else largest << 8


def _from_grey(values: np.ndarray[tuple[int, ...], np.dtype[np.int64]], depth: Depth, name: str) -> Image.Image:
    white = (1 << depth.bits) - 1
    if depth.bits == 16 and 0 < values.max(initial=0) < DARKEST:  # a black image is black at any depth
        raise _nearly_black(name, f"{values.max(initial=0)} is the largest,")
    if depth.inverted:
        values = white - np.minimum(values, white)
    return Image.fromarray(np.minimum(values >> (depth.bits - 8), 255).astype(np.uint8)).convert("RGB")


def _nearly_black(name: str, found: str) -> DataError:
    return DataError(
        f"The image {name} has 16-bit values, {found} below {DARKEST}: it would be nearly black, because white is "
        f"{(1 << 16) - 1}. Cameras with 12 bits write such files.",
        "Multiply the values (12 bits: by 16) and save the image again. If it is meant to be so dark, save it with 8 "
        "bits.",
    )


def _first(value: object) -> int:
    """The first of a tag's values; 0 if it is no whole number."""
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, int) else 0
