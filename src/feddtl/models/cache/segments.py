"""Activations on disk: files in safetensors format that are written once, whole, and read row by row.

Rows are read at their place in the file, through the operating system's page cache. That keeps no more in memory
than a memory map would and takes the same bytes from the same pages, but one call a row replaces a page fault
every 4 KB (30 times faster where faults are slow, as in virtual machines), and a file that has become shorter is
an error rather than the death of the process.
"""

from __future__ import annotations

import json
import os
import struct
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feddtl.errors import RunError
from feddtl.models.cache.packed import Packed, RowLayout

SEGMENT_SUFFIX = ".safetensors"
KEY_BYTES = 16
METADATA = "__metadata__"
CHANGED = "its rows have changed"
_TYPE_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "int8": "I8"}
_LENGTH = struct.Struct("<Q")


class DamagedSegmentError(Exception):
    """A file that is not a whole segment of the expected layout."""


class Segment:
    """A segment open for reading; stays readable after its file is removed.

    Attributes:
        path: Its file.
        keys: Of its rows, in order.
        layout: Of its rows.
        checks: (n,) `row_checks` of its rows when they were written.
    """

    def __init__(self, path: Path, layout: RowLayout) -> None:
        """Open a segment.

        Raises:
            FileNotFoundError: It has been removed.
            DamagedSegmentError: It is not whole, or holds something else.
        """
        self.path = path
        self.layout = layout
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        try:
            (length,) = _LENGTH.unpack(os.pread(self._file, _LENGTH.size, 0))
            header: dict[str, Any] = json.loads(os.pread(self._file, length, _LENGTH.size))
            count = int(header["keys"]["shape"][0])
            expected, end = _header(count, layout)
        except (ValueError, KeyError, struct.error, OSError, OverflowError, TypeError, MemoryError) as error:
            raise DamagedSegmentError(str(error)) from None
        start = _LENGTH.size + length
        if header != expected or os.fstat(self._file).st_size != start + end:
            raise DamagedSegmentError("its size or content is wrong")
        self._at = {name: start + part["data_offsets"][0] for name, part in header.items() if name != METADATA}
        self.checks: NDArray[np.int64] = np.empty(count, np.int64)
        keys = bytearray(count * KEY_BYTES)
        self._fill(self.checks.view(np.uint8).data, self._at["checks"])
        self._fill(memoryview(keys), self._at["keys"])
        self.keys = [bytes(keys[at : at + KEY_BYTES]) for at in range(0, len(keys), KEY_BYTES)]

    def read(self, rows: NDArray[np.int64], out: Packed, places: NDArray[np.int64]) -> None:
        """Copy rows into places of `out`, which is contiguous; they are yet to be compared with `checks`.

        Raises:
            DamagedSegmentError: The file has become shorter, or its disk fails.
        """
        # Neighbours in the file that are neighbours in `out` are read at once.
        cuts = np.flatnonzero((np.diff(rows) != 1) | (np.diff(places) != 1)) + 1
        runs = list(zip(np.split(rows, cuts), np.split(places, cuts), strict=True)) if len(rows) else []
        sizes = (self.layout.value_bytes, self.layout.scale_bytes)
        for name, size, part in zip(("values", "scales"), sizes, out.parts, strict=False):
            target = _bytes_of(part)
            for run, at in runs:
                place = slice(int(at[0]) * size, (int(at[-1]) + 1) * size)
                self._fill(target[place], self._at[name] + int(run[0]) * size)

    def read_checked(self, rows: NDArray[np.int64], out: Packed, places: NDArray[np.int64]) -> None:
        """As `read`, for ascending places. Raises DamagedSegmentError also where rows are not what was written."""
        self.read(rows, out, places)
        if len(places):
            together = places[-1] - places[0] + 1 == len(places)
            read = out.pick(slice(int(places[0]), int(places[-1]) + 1) if together else torch.from_numpy(places))
            if not np.array_equal(row_checks(read).numpy(), self.checks[rows]):
                raise DamagedSegmentError(CHANGED)

    def _fill(self, buffer: memoryview, offset: int) -> None:
        """Read as many bytes as a buffer has."""
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._file, [buffer[done:]], offset + done)
            except OSError as error:
                raise DamagedSegmentError(error.strerror) from None
            if not count:
                raise DamagedSegmentError("it has become shorter")
            done += count


class SegmentRows:
    """Rows on disk, in any order over any segments.

    Args:
        places: Segment and row there, for each row of this source.
    """

    def __init__(self, places: Sequence[tuple[Segment, int]]) -> None:
        self._segments = list(dict.fromkeys(segment for segment, _ in places))
        number = {segment: at for at, segment in enumerate(self._segments)}
        self._owners = np.array([number[segment] for segment, _ in places], np.int64)
        self._rows = np.array([row for _, row in places], np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def gather(self, positions: Tensor) -> Tensor:
        """Rows at positions (B,), read now. Raises RunError where they can no longer be read."""
        at = positions.cpu().numpy()
        out = self._segments[0].layout.empty(len(at))
        owners, rows = self._owners[at], self._rows[at]
        expected = np.empty(len(at), np.int64)
        for owner in np.unique(owners):
            segment, places = self._segments[owner], np.flatnonzero(owners == owner)
            try:
                segment.read(rows[places], out, places)
            except DamagedSegmentError as error:
                raise _unreadable(segment, error) from None
            expected[places] = segment.checks[rows[places]]
        changed = np.flatnonzero(row_checks(out).numpy() != expected)
        if len(changed):
            raise _unreadable(self._segments[owners[changed[0]]], CHANGED)
        return out.floats()


def _unreadable(segment: Segment, reason: object) -> RunError:
    return RunError(
        f"Cached activations in {segment.path} can no longer be read: {reason}.",
        "Remove this file and resume the run; its images are then encoded again.",
    )


def segment_chunks(keys: Sequence[bytes], parts: Sequence[Packed], layout: RowLayout) -> Iterator[memoryview]:
    """The content of a segment's file, without copying the rows.

    Args:
        keys: Of the rows of all parts, in order.
        parts: Rows, contiguous and on the CPU.
        layout: Of the rows.
    """
    header, _ = _header(len(keys), layout)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(_LENGTH.pack(len(text)) + text)
    yield from (_bytes_of(part.values) for part in parts)
    yield from (_bytes_of(part.scales) for part in parts if part.scales is not None)
    yield _bytes_of(torch.cat([row_checks(part) for part in parts]))
    yield memoryview(b"".join(keys))


def write_all(file: int, chunks: Iterator[memoryview]) -> None:
    """Write all bytes to a file descriptor. Raises OSError."""
    for chunk in chunks:
        rest = chunk
        while len(rest):
            rest = rest[os.write(file, rest) :]


def row_checks(packed: Packed) -> Tensor:
    """(N,) sum of the 8-byte words of each row, modulo 2⁶⁴: tells damaged rows at the speed of memory."""
    total = torch.zeros(len(packed), dtype=torch.int64)
    for part in packed.parts:
        rows = part.unsqueeze(-1).flatten(1).contiguous().view(torch.uint8)
        words = next(kind for kind in (torch.int64, torch.int32, torch.int16, torch.uint8) if _divides(kind, rows))
        total += rows.view(words).sum(dim=1, dtype=torch.int64)
    return total


def _divides(kind: torch.dtype, rows: Tensor) -> bool:
    return rows.shape[1] % kind.itemsize == 0


def _header(count: int, layout: RowLayout) -> tuple[dict[str, Any], int]:
    """Header of a segment of `count` rows in safetensors format, and the bytes that follow it."""
    tensors: dict[str, tuple[str, list[int], int]] = {
        "values": (_TYPE_NAMES[layout.precision], [count, *layout.shape], count * layout.value_bytes),
        "scales": ("F32", [count, *layout.shape[:-1]], count * layout.scale_bytes),
        "checks": ("I64", [count], count * 8),
        "keys": ("U8", [count, KEY_BYTES], count * KEY_BYTES),
    }
    header: dict[str, Any] = {METADATA: {"format": "pt"}}
    end = 0
    for name, (kind, shape, size) in tensors.items():
        if size or name != "scales":
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
            end += size
    return header, end


def _bytes_of(tensor: Tensor) -> memoryview:
    """A contiguous tensor's memory."""
    array: NDArray[np.uint8] = tensor.reshape(-1).view(torch.uint8).numpy()
    return array.data
