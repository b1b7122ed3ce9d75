"""The orientation that a camera notes in an image's EXIF data, however odd the other tags are."""

from __future__ import annotations

import struct

from PIL import Image

_ORIENTATION = 0x0112
_SHORT, _LONG = 3, 4
_ENTRY = 12  # bytes: tag, type, count, value
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}


def orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image, 1 to 8; 1 if there is none that can be read.

    Pillow's reader also knows XMP, but gives up at the first odd tag.
    """
    for _ in range(2):  # after an error, a second call returns what was read before it
        try:
            found = image.getexif().get(_ORIENTATION)
            if found is not None and found in range(1, 9):
                return int(found)
            break
        except Exception:
            continue
    exif = image.info.get("exif")
    return _first_directory(exif) if isinstance(exif, bytes) else 1


def _first_directory(exif: bytes) -> int:
    """Orientation in the first directory of tags, without a look at the others; 1 if there is none."""
    tiff = exif.removeprefix(b"Exif\0\0").removeprefix(b"Exif\0\0")
    order = _ORDERS.get(tiff[:4])
    if order is None or len(tiff) < 10:
        return 1
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, start) if start + 2 <= len(tiff) else (0,)
    for at in range(start + 2, min(start + 2 + count * _ENTRY, len(tiff) - _ENTRY + 1), _ENTRY):
        tag, kind, _ = struct.unpack_from(f"{order}HHI", tiff, at)
        if tag == _ORIENTATION and kind in (_SHORT, _LONG):
            (value,) = struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'I'}", tiff, at + 8)
            return value if 1 <= value <= 8 else 1
    return 1
