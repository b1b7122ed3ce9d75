"""Decodes images and identifies them by their content, the same for every source."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from feddtl.data.depth import eight_bit_rgb, largest_of_16_bits, stored_depth
from feddtl.data.image_files import CONVERT, READ_FORMATS
from feddtl.data.orientation import orientation
from feddtl.errors import DataError

# What Pillow says of odd metadata concerns no pixel. `warnings.catch_warnings` would not be safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.", append=True)

DIGEST_BYTES = 16
# Pillow's own limit between a large picture and a decompression bomb: 179 million.
MOST_PIXELS = 2 * 89_478_485
# Every other format that Pillow knows stays closed: an EPS, for example, is a program that Ghostscript runs.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


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
        """RGB image, upright by its EXIF orientation; see `decode_rgb`."""
        return decode_rgb(self.content, self.name)

    def largest_of_16_bits(self) -> int | None:
        """See `feddtl.data.depth.largest_of_16_bits`. Raises DataError if the image cannot be read."""
        with _failures_named(self.name), _opened(self.content) as image:
            return largest_of_16_bits(image) if image.width * image.height <= MOST_PIXELS else None

    def digest(self) -> bytes:
        """Digest of the encoded bytes: equal for copies under any name. Raises DataError if there is no such file."""
        with _failures_named(self.name):
            encoded = self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        return hashlib.blake2b(encoded, digest_size=DIGEST_BYTES).digest()


def decode_rgb(content: Path | bytes, name: str) -> Image.Image:
    """RGB image with 8 bits per channel, upright by its EXIF orientation.

    Of several pictures in one file, the first is read. EXIF data that cannot be read are ignored.

    Args:
        content: A file, or the bytes of one.
        name: Name of the image in errors.

    Raises:
        DataError: The image is missing, damaged, larger than `MOST_PIXELS`, in a format other than `FORMATS`, or has
            pixels whose range is unknown, see `eight_bit_rgb`.
    """
    with _failures_named(name):
        try:
            with _opened(content) as image:
                return upright_rgb(image, name)
        except UnidentifiedImageError:
            raise _unknown_format(content, name) from None


def upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """A Pillow image as 8-bit RGB, upright by its EXIF orientation.

    The result is the image itself if nothing is to be changed.

    Raises:
        DataError: As for `decode_rgb`.
    """
    if image.width * image.height > MOST_PIXELS:
        raise _too_large(name, f"{image.width} x {image.height}")
    depth = stored_depth(image)  # known only before the pixels are loaded
    with _failures_named(name):
        image.load()
    method = _UPRIGHT.get(orientation(image))
    rgb = eight_bit_rgb(image, depth, name)
    return rgb if method is None else rgb.transpose(method)


def pixel_digest(width: int, height: int, pixels: bytes) -> bytes:
    """Digest of an image's RGB pixels, row by row."""
    size = b"%d x %d" % (width, height)
    return hashlib.blake2b(pixels, digest_size=DIGEST_BYTES, person=size.ljust(16)[:16]).digest()


def _opened(content: Path | bytes) -> Image.Image:
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]  # an older Pillow has no AVIF
    return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=known)


@contextmanager
def _failures_named(name: str) -> Iterator[None]:
    """Turns what reading an image may raise into a DataError that names it."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise _too_large(name, "too many") from None
    except OSError as error:
        if error.errno is None:  # Pillow's own, on damaged content
            raise _damaged(name, error) from error
        hint = "Restore the file, or remove it from the data set."
        if isinstance(error, PermissionError):
            hint = "Check that you have permission to read the file, or remove it from the data set."
        raise DataError(f"Cannot read the image {name}: {error.strerror}.", hint) from None
    # Pillow's decoders raise SyntaxError, ValueError, struct.error and more on damaged files.
    except Exception as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> DataError:
    return DataError(
        f"Cannot read the image {name}: {error}",
        "Replace the file with an intact copy, or remove it from the data set.",
    )


def _too_large(name: str, pixels: str) -> DataError:
    return DataError(
        f"The image {name} has {pixels} pixels; at most {MOST_PIXELS:,} are read, because such a file may fill the "
        "memory.",
        "Save a smaller version: models see at most some hundred pixels per side.",
    )


def _unknown_format(content: Path | bytes, name: str) -> DataError:
    head = content[:12] if isinstance(content, bytes) else _head(content)
    if not head:
        return _damaged(name, ValueError("it is empty."))
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS:
        return DataError(f"The image {name} is in HEIC format, which is not read.", CONVERT)
    return DataError(
        f"Cannot read the image {name}: it is damaged, or in another format than {READ_FORMATS}.",
        "Replace the file with an intact copy in one of these formats, or remove it from the data set.",
    )


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(12)
