"""Two stores of activation rows with the same interface: segment files as in the cache, and an sqlite database."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from feddtl.models.cache.namespace import SEGMENT_BYTES, CacheNamespace
from feddtl.models.cache.packed import Packed, RowLayout
from feddtl.models.cache.segments import DamagedSegmentError, SegmentRows, row_checks

LAYOUT = RowLayout((197, 768), "float16")  # of ViT-B/16
# Rows of a segment, and of a transaction.
GROUP = SEGMENT_BYTES // LAYOUT.nbytes
TABLE = "CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, key BLOB UNIQUE, checksum INTEGER, content BLOB)"
# A write-ahead log serves readers during a write; a rollback journal writes rows once and works over a network.
STORES = ("segments", "WAL NORMAL", "TRUNCATE FULL")

Gather = Callable[[Tensor], Tensor]


def key_of(number: int) -> bytes:
    """Key of a row."""
    return number.to_bytes(16, "big")


class Segments:
    """The files of `feddtl.models.cache`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.namespace = CacheNamespace(folder, {"name": "benchmark"}, LAYOUT, 50 * 10**9, lambda text: None)

    def add(self, first: int, packed: Packed) -> None:
        """Store rows that are numbered from `first`."""
        keys = [key_of(first + at) for at in range(len(packed))]
        with self.namespace.claim(keys) as claim:
            self.namespace.add(claim, keys, [packed])

    def reader(self, count: int) -> Gather:
        """Function that reads some of the rows 0 to `count`."""
        found = self.namespace.find([key_of(number) for number in range(count)])
        return SegmentRows([found[key_of(number)] for number in range(count)]).gather

    def intact(self) -> int:
        """Number of rows that are found and equal what was written."""
        segments = {segment for segment, _ in self.namespace.find([key_of(number) for number in range(10**5)]).values()}
        good = 0
        for segment in segments:
            every = np.arange(len(segment.keys))
            try:
                segment.read_checked(every, LAYOUT.empty(len(every)), every)
                good += len(every)
            except DamagedSegmentError:
                continue
        return good

    def close(self) -> None:
        """Do nothing: no file is open."""


class Sqlite:
    """One database, in which each row is a blob with its checksum.

    Args:
        folder: Folder of the database.
        journal: `journal_mode`.
        synchronous: `synchronous`.
        page: `page_size` in bytes.
        mapped: `mmap_size` in bytes.
    """

    def __init__(
        self, folder: Path, journal: str = "WAL", synchronous: str = "NORMAL", page: int = 65536, mapped: int = 0
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / "rows.sqlite"
        self.base = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        for name, value in (
            ("page_size", page),
            ("auto_vacuum", "INCREMENTAL"),
            ("journal_mode", journal),
            ("synchronous", synchronous),
            ("mmap_size", mapped),
            ("secure_delete", "OFF"),
        ):
            self.base.execute(f"PRAGMA {name}={value}").fetchall()
        self.base.execute(TABLE)

    def add(self, first: int, packed: Packed) -> None:
        """Store rows that are numbered from `first`, in one transaction."""
        checks = row_checks(packed).tolist()
        content = packed.values.view(torch.uint8).flatten(1).numpy()
        rows = ((key_of(first + at), checks[at], content[at].data) for at in range(len(packed)))
        self.base.execute("BEGIN IMMEDIATE")
        self.base.executemany("INSERT OR IGNORE INTO rows (key, checksum, content) VALUES (?, ?, ?)", rows)
        self.base.execute("COMMIT")

    def reader(self, count: int) -> Gather:
        """Function that reads some of the rows 0 to `count`."""
        stored = self.base.execute("SELECT id, checksum FROM rows ORDER BY key LIMIT ?", (count,)).fetchall()
        checks = np.array([check for _, check in stored], np.int64)

        def gather(indices: Tensor) -> Tensor:
            out = LAYOUT.empty(len(indices))
            target = out.values.view(torch.uint8).flatten(1).numpy()
            for row, index in enumerate(indices.tolist()):
                target[row] = np.frombuffer(self._content(stored[index][0]), np.uint8)
            assert np.array_equal(row_checks(out).numpy(), checks[indices.numpy()])
            return out.floats()

        return gather

    def intact(self) -> int:
        """Number of rows that are found and equal what was written."""
        good = 0
        for at, check in self.base.execute("SELECT id, checksum FROM rows").fetchall():
            try:
                values = torch.frombuffer(bytearray(self._content(at)), dtype=LAYOUT.dtype)
                good += int(row_checks(Packed(values[None])).item() == check)
            except sqlite3.Error:
                continue
        return good

    def close(self) -> None:
        """Close the database."""
        self.base.close()

    def _content(self, at: int) -> bytes:
        # This copies once less than SELECT.
        with self.base.blobopen("rows", "content", at, readonly=True) as blob:
            return blob.read()


def open_store(folder: Path, name: str) -> Segments | Sqlite:
    """A store by its name in `STORES`."""
    if name == "segments":
        return Segments(folder)
    journal, synchronous = name.split()
    return Sqlite(folder, journal, synchronous)
