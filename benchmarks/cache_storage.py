"""The cache's segment files compared with sqlite: reads, fills, two writers, kills, a full disk, damage, removal.

    python -m benchmarks.cache_storage FOLDER [--measures read fill …] [--small SMALL]

FOLDER is on the disk to measure; SMALL is on a file system of about 400 MB, such as a tmpfs. A row has 302,592
bytes, as with ViT-B/16 in float16. Both sides read batches of 64 rows in random order and check each row, as training
does. docs/explanation/measurements.md contains the figures and the decision.
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

import torch

import feddtl.models.cache.folder
from benchmarks.cache_stores import GROUP, LAYOUT, STORES, Segments, Sqlite, open_store
from feddtl.models.cache.packed import Packed

BATCH = 64


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
    """Microseconds per row; in each turn every store reads the same batches."""
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
    """Microseconds per row, without computing the activations."""
    for name in (*STORES, "WAL OFF", "TRUNCATE OFF"):
        samples = []
        for _ in range(turns):
            with closing(open_store(folder / name, name)) as store:
                samples.append(fill(store, count) / count * 1e6)
            shutil.rmtree(folder / name)
        print(f"fill, {name}: {', '.join(f'{sample:.0f}' for sample in samples)} us a row")


def measure_writers(folder: Path, count: int = 8 * GROUP) -> None:
    """Seconds of one process, and of two at once that add as many rows each, including the start of Python."""
    for name in STORES:
        for writers in (1, 2):
            store_folder = folder / f"{name} {writers}"
            began = time.perf_counter()
            outputs = [
                child.communicate()[0]
                for child in [_child(store_folder, name, count, 40_000 * at) for at in range(writers)]
            ]
            spent = time.perf_counter() - began
            failed = [line for output in outputs for line in output.splitlines() if "failed" in line]
            with closing(open_store(store_folder, name)) as store:
                print(
                    f"writers, {name}, {writers}: {spent:.1f} s, {store.intact()} rows intact, {failed or 'no errors'}"
                )


def measure_kill(folder: Path, kills: int = 15) -> None:
    """Rows that a killed process had reported as stored, and how many of them are intact."""
    chance = random.Random(0)
    for name in STORES:
        reported = first = 0
        for _ in range(kills):
            process = _child(folder / name, name, 10**6, first)
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.uniform(0.05, 1.0))
            process.kill()
            stored = process.communicate()[0].count("stored")
            reported += stored * GROUP
            first += (stored + 2) * GROUP
        with closing(open_store(folder / name, name)) as store:
            print(f"kill, {name}: {reported} rows reported as stored, {store.intact()} intact after {kills} kills")


def measure_full(folder: Path, small: Path | None) -> None:
    """A limit of 50 MB per file, and a disk that is too small."""
    for parent, limit in ((folder, 50_000), *([] if small is None else [(small, 0)])):
        for name in STORES:
            output = _child(parent / name, name, 3000, 0, limit).communicate()[0]
            with closing(open_store(parent / name, name)) as store:
                print(
                    f"full, {name}, {'limit' if limit else 'disk'}: {output.splitlines()[-1]}; {store.intact()} intact"
                )
            shutil.rmtree(parent / name)


def measure_damage(folder: Path, trials: int = 10, count: int = 5 * GROUP) -> None:
    """Intact rows after 4 kB of a file were overwritten or its end was cut off."""
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
    """Seconds until the disk space of a quarter of the rows is free again."""
    with closing(Sqlite(folder / "sqlite")) as store:
        fill(store, count)
        began = time.perf_counter()
        store.base.execute("DELETE FROM rows WHERE id <= ?", (count // 4,))
        # `execute` would run only its first step.
        store.base.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);")
        print(f"removal, sqlite: {time.perf_counter() - began:.3f} s")
    fill(Segments(folder / "segments"), count)
    paths = sorted((folder / "segments").glob("*/segment-*"))
    began = time.perf_counter()
    for path in paths[: len(paths) // 4]:
        path.unlink()
    print(f"removal, segments: {time.perf_counter() - began:.3f} s")


def _child(folder: Path, name: str, count: int, first: int, limit: int = 0) -> subprocess.Popen[str]:
    """A process that fills a store; `limit` is the maximum size of a file in kB."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", __spec__.name, str(folder), "--child", name, str(count), str(first)]
    shell = ["bash", "-c", f'ulimit -f {limit or "unlimited"}; exec "$@"', "_"]
    return subprocess.Popen([*shell, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run_child(folder: Path, name: str, count: int, first: int) -> None:
    """Fill a store, and print a line after each stored group."""
    store = open_store(folder, name)
    print("ready", flush=True)
    for start in range(first, first + count, GROUP):
        try:
            fill(store, GROUP, start)
        except (OSError, sqlite3.Error) as error:
            print(f"failed: {error}", flush=True)
            return
        print("stored", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder on the disk to measure")
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
    # Otherwise the cache refuses a small disk before it is full.
    feddtl.models.cache.folder.FREE_MARGIN = 0
    if arguments.child:
        name, count, first = arguments.child
        run_child(arguments.folder, name, int(count), int(first))
        return
    for name in arguments.measures:
        scratch = arguments.folder / f"cache-storage-{name}"
        scratch.mkdir(parents=True)
        try:
            measures[name](scratch)
        finally:
            shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
