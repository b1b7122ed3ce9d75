"""The cache's segment files against sqlite: reads, fills, two writers, kills, a full disk, damage, removal.

    python -m benchmarks.cache_storage FOLDER [--measures read fill …] [--small SMALL]

FOLDER is on the disk to measure; SMALL is on a file system of about 400 MB, such as a tmpfs. A row is that of ViT-B/16
in float16, 302,592 bytes. Both sides read batches of 64 rows in random order and check each row, as training does.
docs/explanation/measurements.md holds the figures and the decision.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

import feddtl.models.cache.folder
from feddtl.models.cache.namespace import SEGMENT_BYTES, CacheNamespace
from feddtl.models.cache.packed import Packed, RowLayout
from feddtl.models.cache.segments import DamagedSegmentError, SegmentRows, row_checks

LAYOUT = RowLayout((197, 768), "float16")
BATCH = 64
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
        """Keep rows that are numbered from `first`."""
        keys = [key_of(first + at) for at in range(len(packed))]
        with self.namespace.claim(keys) as claim:
            self.namespace.add(claim, keys, [packed])

    def reader(self, count: int) -> Gather:
        """Rows 0 to `count` by position."""
        found = self.namespace.find([key_of(number) for number in range(count)])
        return SegmentRows([found[key_of(number)] for number in range(count)]).gather

    def intact(self) -> int:
        """Rows that can be found and are what was written."""
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
        """Nothing is open."""


class Sqlite:
    """One database, one row a blob with its checksum.

    Args:
        folder: Of the database.
        journal: `journal_mode`.
        synchronous: `synchronous`.
        page: Bytes of a page.
        mapped: Bytes that are mapped into memory.
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
        """Keep rows that are numbered from `first`, in one transaction."""
        checks = row_checks(packed).tolist()
        content = packed.values.view(torch.uint8).flatten(1).numpy()
        rows = ((key_of(first + at), checks[at], content[at].data) for at in range(len(packed)))
        self.base.execute("BEGIN IMMEDIATE")
        self.base.executemany("INSERT OR IGNORE INTO rows (key, checksum, content) VALUES (?, ?, ?)", rows)
        self.base.execute("COMMIT")

    def reader(self, count: int) -> Gather:
        """Rows 0 to `count` by position."""
        stored = self.base.execute("SELECT id, checksum FROM rows ORDER BY key LIMIT ?", (count,)).fetchall()
        checks = np.array([check for _, check in stored], np.int64)

        def gather(positions: Tensor) -> Tensor:
            out = LAYOUT.empty(len(positions))
            target = out.values.view(torch.uint8).flatten(1).numpy()
            for place, position in enumerate(positions.tolist()):
                target[place] = np.frombuffer(self._content(stored[position][0]), np.uint8)
            assert np.array_equal(row_checks(out).numpy(), checks[positions.numpy()])
            return out.floats()

        return gather

    def intact(self) -> int:
        """Rows that can be found and are what was written."""
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
        # One copy less than SELECT.
        with self.base.blobopen("rows", "content", at, readonly=True) as blob:
            return blob.read()


def open_store(folder: Path, name: str) -> Segments | Sqlite:
    """A store by its name in `STORES`."""
    if name == "segments":
        return Segments(folder)
    journal, synchronous = name.split()
    return Sqlite(folder, journal, synchronous)


def fill(store: Segments | Sqlite, count: int, first: int = 0) -> float:
    """Seconds to add rows in groups of 64 MB."""
    seeded = torch.Generator().manual_seed(first)
    values = torch.randint(-(2**15), 2**15, (GROUP, *LAYOUT.shape), generator=seeded, dtype=torch.int16)
    group, spent = Packed(values.view(torch.float16)), 0.0
    for start in range(0, count, GROUP):
        values[:, 0, 0] = torch.arange(start, start + GROUP).to(torch.int16)
        began = time.perf_counter()
        store.add(first + start, group.pick(slice(min(GROUP, count - start))))
        spent += time.perf_counter() - began
    return spent


def measure_read(folder: Path, turns: int = 25, count: int = 1500) -> None:
    """Microseconds a row; in each turn every store reads the same batches."""
    stores: dict[str, Segments | Sqlite] = {name: open_store(folder / name, name) for name in STORES}
    for store in stores.values():
        fill(store, count)
    stores["WAL, mapped"] = Sqlite(folder / "WAL NORMAL", mapped=2**31 - 65536)
    stores["WAL, pages of 4 kB"] = Sqlite(folder / "small pages", page=4096)
    fill(stores["WAL, pages of 4 kB"], count)
    gathers = {name: store.reader(count) for name, store in stores.items()}
    taken: dict[str, list[float]] = {name: [] for name in gathers}
    for turn in range(turns):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(turn))
        batches = [order[start : start + BATCH] for start in range(0, 16 * BATCH, BATCH)]
        for name, gather in gathers.items():
            began = time.perf_counter()
            for batch in batches:
                gather(batch)
            taken[name].append((time.perf_counter() - began) / (16 * BATCH) * 1e6)
    for name, samples in taken.items():
        # The first turns bring files into the page cache.
        ratio = median(own / today for own, today in zip(samples[3:], taken["segments"][3:], strict=True))
        print(f"read, {name}: {median(samples[3:]):.0f} us a row, ratio {ratio:.2f}")


def measure_fill(folder: Path, turns: int = 3, count: int = 8 * GROUP) -> None:
    """Microseconds a row, without computing it."""
    for name in (*STORES, "WAL OFF", "TRUNCATE OFF"):
        samples = []
        for _ in range(turns):
            with closing(open_store(folder / name, name)) as store:
                samples.append(fill(store, count) / count * 1e6)
            shutil.rmtree(folder / name)
        print(f"fill, {name}: {', '.join(f'{sample:.0f}' for sample in samples)} us a row")


def measure_writers(folder: Path, count: int = 8 * GROUP) -> None:
    """Seconds of one process, and of two at once that add as many rows each; starting Python included."""
    for name in STORES:
        for writers in (1, 2):
            place = folder / f"{name} {writers}"
            began = time.perf_counter()
            outputs = [
                child.communicate()[0] for child in [_child(place, name, count, 40_000 * at) for at in range(writers)]
            ]
            spent = time.perf_counter() - began
            failed = [line for output in outputs for line in output.splitlines() if "failed" in line]
            with closing(open_store(place, name)) as store:
                print(
                    f"writers, {name}, {writers}: {spent:.1f} s, {store.intact()} rows intact, {failed or 'no errors'}"
                )


def measure_kill(folder: Path, kills: int = 15) -> None:
    """Rows lost that a killed process had reported as kept."""
    chance = random.Random(0)
    for name in STORES:
        promised = first = 0
        for _ in range(kills):
            process = _child(folder / name, name, 10**6, first)
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.uniform(0.05, 1.0))
            process.kill()
            kept = process.communicate()[0].count("kept")
            promised += kept * GROUP
            first += (kept + 2) * GROUP
        with closing(open_store(folder / name, name)) as store:
            print(f"kill, {name}: {promised} rows promised, {store.intact()} intact after {kills} kills")


def measure_full(folder: Path, small: Path | None) -> None:
    """A limit of 50 MB a file, and a disk that is too small."""
    for place, limit in ((folder, 50_000), *([] if small is None else [(small, 0)])):
        for name in STORES:
            output = _child(place / name, name, 3000, 0, limit).communicate()[0]
            with closing(open_store(place / name, name)) as store:
                print(
                    f"full, {name}, {'limit' if limit else 'disk'}: {output.splitlines()[-1]}; {store.intact()} intact"
                )
            shutil.rmtree(place / name)


def measure_damage(folder: Path, trials: int = 10, count: int = 5 * GROUP) -> None:
    """Intact rows after 4 kB of one file were overwritten, or its end was cut off."""
    chance = random.Random(0)
    for name in STORES[:2]:
        with closing(open_store(folder / name, name)) as store:
            fill(store, count)
        files = [path for path in (folder / name).rglob("*") if path.is_file() and path.stat().st_size > 10**6]
        contents = {path: path.read_bytes() for path in files}
        for kind in ("first page", "random page", "cut"):
            left = []
            for _ in range(trials):
                path = chance.choice(files)
                at = 0 if kind == "first page" else chance.randrange(len(contents[path]) // 4096) * 4096
                damaged = contents[path][:at] + chance.randbytes(4096) + contents[path][at + 4096 :]
                path.write_bytes(contents[path][:at] if kind == "cut" else damaged)
                left.append(_intact(folder / name, name))
                for other, content in contents.items():
                    other.write_bytes(content)
            print(f"damage, {name}, {kind}: {min(left)} to {max(left)} of {count} rows intact")


def _intact(folder: Path, name: str) -> int:
    try:
        with closing(open_store(folder, name)) as store:
            return store.intact()
    except sqlite3.Error:
        return 0


def measure_removal(folder: Path, count: int = 16 * GROUP) -> None:
    """Seconds until the disk has back the room of a quarter of the rows."""
    with closing(Sqlite(folder / "sqlite")) as store:
        fill(store, count)
        began = time.perf_counter()
        store.base.execute("DELETE FROM rows WHERE id <= ?", (count // 4,))
        # `execute` would make a single step of it.
        store.base.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);")
        print(f"removal, sqlite: {time.perf_counter() - began:.3f} s")
    fill(Segments(folder / "segments"), count)
    paths = sorted((folder / "segments").glob("*/segment-*"))
    began = time.perf_counter()
    for path in paths[: len(paths) // 4]:
        path.unlink()
    print(f"removal, segments: {time.perf_counter() - began:.3f} s")


def _child(folder: Path, name: str, count: int, first: int, limit: int = 0) -> subprocess.Popen[str]:
    """A process that fills a store; `limit` is the most kB of a file."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", __spec__.name, str(folder), "--child", name, str(count), str(first)]
    shell = ["bash", "-c", f'ulimit -f {limit or "unlimited"}; exec "$@"', "_"]
    return subprocess.Popen([*shell, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run_child(folder: Path, name: str, count: int, first: int) -> None:
    """Fill a store and say after each group that it is kept."""
    store = open_store(folder, name)
    print("ready", flush=True)
    for start in range(first, first + count, GROUP):
        try:
            fill(store, GROUP, start)
        except (OSError, sqlite3.Error) as error:
            print(f"failed: {error}", flush=True)
            return
        print("kept", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="on the disk to measure")
    parser.add_argument("--small", type=Path, help="a folder on a file system of about 400 MB")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    measures: dict[str, Callable[[Path], None]] = {
        "read": measure_read,
        "fill": measure_fill,
        "writers": measure_writers,
        "kill": measure_kill,
        "full": lambda folder: measure_full(folder, arguments.small),
        "damage": measure_damage,
        "removal": measure_removal,
    }
    parser.add_argument("--measures", nargs="+", choices=measures, default=list(measures))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # Else a small disk is refused before it is full.
    feddtl.models.cache.folder.FREE_MARGIN = 0
    if arguments.child:
        name, count, first = arguments.child
        run_child(arguments.folder, name, int(count), int(first))
        return
    for name in arguments.measures:
        place = arguments.folder / f"cache-storage-{name}"
        place.mkdir(parents=True)
        try:
            measures[name](place)
        finally:
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
