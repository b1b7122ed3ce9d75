"""Activations on disk: files in safetensors format that are written once, as a whole, and read row by row.

Rows are read by offset, through the operating system's page cache. Compared with a memory map, one call per row
replaces a page fault every 4 KB (30 times faster where faults are slow, as in virtual machines), and a file that became
shorter raises an error instead of killing the process.
"""

from __future__ import annotations

import json
import os
import struct
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feddtl.errors import RunError
from feddtl.models.cache.packed import Packed, RowLayout
from feddtl.parsing import parse_table

SEGMENT_SUFFIX = ".safetensors"
KEY_BYTES = 16
METADATA = "__metadata__"
CHANGED = "its rows have changed"
_TYPE_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "int8": "I8"}
_LENGTH = struct.Struct("<Q")


class DamagedSegmentError(Exception):
    """A file is not a complete segment of the expected layout."""


class Segment:
    """A segment open for reading. It stays readable after its file is removed.

    Attributes:
        path: Its file.
        keys: Of its rows, in order.
        layout: Of its rows.
        checks: (n,) `row_checks` of its rows when they were written.

    Raises:
        FileNotFoundError: It has been removed.
        DamagedSegmentError: It is incomplete, or its content is not a segment of this layout.
    """

    def __init__(self, path: Path, layout: RowLayout) -> None:
        self.path = path
        self.layout = layout
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        try:
            (length,) = _LENGTH.unpack(os.pread(self._file, _LENGTH.size, 0))
            header: dict[str, Any] = parse_table(os.pread(self._file, length, _LENGTH.size))
            count = int(header["keys"]["shape"][0])
            expected, end = _header(count, layout)
        except (ValueError, KeyError, struct.error, OSError, OverflowError, TypeError, MemoryError) as error:
            raise DamagedSegmentError(str(error)) from None
        start = _LENGTH.size + length
        if header != expected or os.fstat(self._file).st_size != start + end:
            raise DamagedSegmentError("its size or content is wrong")
        self._offsets = {name: start + part["data_offsets"][0] for name, part in header.items() if name != METADATA}
        self.checks: NDArray[np.int64] = np.empty(count, np.int64)
        keys = bytearray(count * KEY_BYTES)
        self._fill(self.checks.view(np.uint8).data, self._offsets["checks"])
        self._fill(memoryview(keys), self._offsets["keys"])
        self.keys = split_keys(bytes(keys))

    def read(self, rows: NDArray[np.int64], out: Packed, targets: NDArray[np.int64]) -> None:
        """Copy rows into the target rows of `out`, which is contiguous, without comparing them with `checks`.

        Raises:
            DamagedSegmentError: The file became shorter, or its disk fails.
        """
        # Neighbours in the file that are neighbours in `out` are read in one call.
        cuts = np.flatnonzero((np.diff(rows) != 1) | (np.diff(targets) != 1)) + 1
        runs = list(zip(np.split(rows, cuts), np.split(targets, cuts), strict=True)) if len(rows) else []
        sizes = (self.layout.value_bytes, self.layout.scale_bytes)
        for name, size, part in zip(("values", "scales"), sizes, out.parts, strict=False):
            memory = _bytes_of(part)
            for run, target in runs:
                buffer = memory[int(target[0]) * size : (int(target[-1]) + 1) * size]
                self._fill(buffer, self._offsets[name] + int(run[0]) * size)

    def read_checked(self, rows: NDArray[np.int64], out: Packed, targets: NDArray[np.int64]) -> None:
        """As `read`, for ascending targets. Raises DamagedSegmentError also for rows that have changed."""
        self.read(rows, out, targets)
        if len(targets):
            contiguous = targets[-1] - targets[0] + 1 == len(targets)
            read = out.pick(slice(int(targets[0]), int(targets[-1]) + 1) if contiguous else torch.from_numpy(targets))
            if not np.array_equal(row_checks(read).numpy(), self.checks[rows]):
                raise DamagedSegmentError(CHANGED)

    def _fill(self, buffer: memoryview, offset: int) -> None:
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._file, [buffer[done:]], offset + done)
            except OSError as error:
                raise DamagedSegmentError(error.strerror) from None
            if not count:
                raise DamagedSegmentError("it became shorter")
            done += count


class SegmentRows:
    """Rows on disk, in any order and from any number of segments.

    Args:
        locations: Segment and number in it of each row.
    """

    def __init__(self, locations: Sequence[tuple[Segment, int]]) -> None:
        self._segments = list(dict.fromkeys(segment for segment, _ in locations))
        number = {segment: owner for owner, segment in enumerate(self._segments)}
        self._owners = np.array([number[segment] for segment, _ in locations], np.int64)
        self._rows = np.array([row for _, row in locations], np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def gather(self, indices: Tensor) -> Tensor:
        """Rows at indices (B,), read now. Raises RunError if they can no longer be read."""
        chosen = indices.cpu().numpy()
        out = self._segments[0].layout.empty(len(chosen))
        owners, rows = self._owners[chosen], self._rows[chosen]
        expected = np.empty(len(chosen), np.int64)
        for owner in np.unique(owners):
            segment, targets = self._segments[owner], np.flatnonzero(owners == owner)
            try:
                segment.read(rows[targets], out, targets)
            except DamagedSegmentError as error:
                raise _unreadable(segment, error) from None
            expected[targets] = segment.checks[rows[targets]]
        changed = np.flatnonzero(row_checks(out).numpy() != expected)
        if len(changed):
            raise _unreadable(self._segments[owners[changed[0]]], CHANGED)
        return out.floats()


def _unreadable(segment: Segment, reason: object) -> RunError:
    return RunError(
        f"Cached activations in {segment.path} can no longer be read: {reason}.",
        "Remove this file and resume the run; its images are then encoded again.",
    )


def write_segment(path: Path, keys: Sequence[bytes], parts: Sequence[Packed], layout: RowLayout) -> None:
    """Write a new segment, which is on the disk when this returns. Raises OSError.

    Args:
        path: A new file.
        keys: Of the rows of all parts, in order.
        parts: Rows, contiguous and on the CPU.
        layout: Of the rows.
    """
    header, _ = _header(len(keys), layout)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    chunks = [
        memoryview(_LENGTH.pack(len(text)) + text),
        *(_bytes_of(part.values) for part in parts),
        *(_bytes_of(part.scales) for part in parts if part.scales is not None),
        _bytes_of(torch.cat([row_checks(part) for part in parts])),
        memoryview(b"".join(keys)),
    ]
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for chunk in chunks:
            written = 0
            while written < len(chunk):
                written += os.write(file, chunk[written:])
        os.fsync(file)
    finally:
        os.close(file)


def split_keys(content: bytes) -> list[bytes]:
    """Keys that were written one after another."""
    return [content[start : start + KEY_BYTES] for start in range(0, len(content), KEY_BYTES)]


def row_checks(packed: Packed) -> Tensor:
    """(N,) sum of the 8-byte words of each row, modulo 2⁶⁴: finds damaged rows at the speed of memory."""
    total = torch.zeros(len(packed), dtype=torch.int64)
    for part in packed.parts:
        rows = part.unsqueeze(-1).flatten(1).contiguous().view(torch.uint8)
        kinds = (torch.int64, torch.int32, torch.int16, torch.uint8)
        words = rows.view(next(kind for kind in kinds if rows.shape[1] % kind.itemsize == 0))
        total += words.sum(dim=1, dtype=torch.int64)
    return total


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
