"""The cache folder: activations of all models and runs, below one cap, readable only by their owner.

Each namespace (see `namespace`) is a folder of segments, files that appear as a whole and never change. The least
recently used ones are removed to stay below the cap; a process that still reads a removed segment is not disturbed.
Only the owner has access, since activations of private images can be inverted.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feddtl.config.running import CACHE_OFF
from feddtl.errors import ConfigError
from feddtl.models.cache.claims import CLAIM, LOCK, claimed
from feddtl.models.cache.segments import SEGMENT_SUFFIX
from feddtl.models.remembered import read_remembered
from feddtl.state_folder import CACHE, NO_HOME, expanded, has_home
from feddtl.storage import make_folder, storage_errors

META = "meta.json"
SEGMENT = "segment-"
# `CacheNamespace` names its folder by 16 bytes of a hash.
NAMESPACE = re.compile("[0-9a-f]{32}")
# Left free on the disk for everything else.
FREE_MARGIN = 1_000_000_000

Note = Callable[[str], None]


@dataclass(frozen=True)
class CacheEntry:
    """One namespace of a cache.

    Attributes:
        path: Its folder.
        identity: What determines its activations; see `feddtl.features.prefix_identity`.
        images: Number of views of images.
        nbytes: Bytes on disk.
        last_used: Seconds since the epoch.
    """

    path: Path
    identity: Mapping[str, Any]
    images: int
    nbytes: int
    last_used: float


def cache_folder(setting: str = "") -> Path | None:
    """The folder that `compute.cache_folder` names; None for 'off', or without a home folder. Nothing is created."""
    named = setting or os.environ.get(CACHE, "")
    if named == CACHE_OFF or not (named or has_home()):
        return None
    return expanded(named or "~/.cache/feddtl")


def open_cache_folder(setting: str, note: Note) -> Path | None:
    """The folder, created if it is missing; None for 'off', or if the default one cannot be written.

    Raises:
        ConfigError: A requested folder cannot be written.
    """
    folder = cache_folder(setting)
    if folder is None:
        if not (setting or os.environ.get(CACHE)):
            note(f"{NO_HOME}, so activations are not cached for later runs. {CACHE} names a folder for them.")
        return None
    try:
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = f"The cache folder {folder} cannot be written: {error.strerror}."
        if setting or os.environ.get(CACHE):
            raise ConfigError(
                reason,
                f"Set another one with compute.cache_folder or {CACHE}, or '{CACHE_OFF}' to disable the disk cache.",
            ) from None
        note(f"{reason} Activations are not cached for later runs.")
        return None
    return folder


def cache_contents(folder: Path) -> list[CacheEntry]:
    """Every namespace of a cache, the last used first; one without a readable description has an empty identity."""
    entries = []
    for namespace in (path for path in folder.glob("*") if NAMESPACE.fullmatch(path.name)):
        # Another process may be removing it.
        with suppress(FileNotFoundError):
            statuses = {path: path.stat() for path in segments_in(namespace)}
            if not statuses and not (namespace / META).is_file():
                continue
            last_used = max((status.st_mtime for status in statuses.values()), default=namespace.stat().st_mtime)
            size, images = sum(status.st_size for status in statuses.values()), sum(map(_images_in, statuses))
            entries.append(CacheEntry(namespace, read_remembered(namespace / META), images, size, last_used))
    return sorted(entries, key=lambda entry: entry.last_used, reverse=True)


def clear_cache(folder: Path) -> int:
    """Remove all activations of a cache without disturbing active runs. Returns the bytes freed."""
    freed = 0
    for entry in cache_contents(folder):
        freed += entry.nbytes
        with storage_errors(entry.path):
            # An empty claim removes what killed processes left.
            with claimed(entry.path, ()):
                for path in segments_in(entry.path):
                    path.unlink(missing_ok=True)
            if not any(entry.path.glob(f"{CLAIM}*")):
                for name in (META, LOCK):
                    (entry.path / name).unlink(missing_ok=True)
                with suppress(OSError):
                    entry.path.rmdir()
    return freed


def free_bytes(folder: Path, cap: int, needed: Collection[Path]) -> int:
    """Bytes that can be added below the cap and on the disk, also by removing segments that are not needed."""
    sizes = {path: status.st_size for path, status in _statuses(folder).items()}
    required = sum(sizes[path] for path in sizes.keys() & set(needed))
    removable = sum(sizes.values()) - required
    return max(0, min(cap - required, shutil.disk_usage(folder).free - FREE_MARGIN + removable))


def make_room(folder: Path, size: int, cap: int, needed: Collection[Path]) -> None:
    """Remove the least recently used segments that are not needed until `size` more bytes fit.

    The folder must be locked.

    Raises:
        OSError: They do not fit (ENOSPC).
    """
    if free_bytes(folder, cap, needed) < size:
        raise OSError(errno.ENOSPC, f"There is no space for another {size / 1e6:.0f} MB")
    statuses = _statuses(folder)
    total = sum(status.st_size for status in statuses.values())
    short = max(total + size - cap, size + FREE_MARGIN - shutil.disk_usage(folder).free)
    for path in sorted(statuses.keys() - set(needed), key=lambda path: (statuses[path].st_mtime_ns, path)):
        if short <= 0:
            break
        path.unlink(missing_ok=True)
        short -= statuses[path].st_size


def _images_in(segment: Path) -> int:
    """Number of rows of a segment, from its name; 0 for the name of another file."""
    count = segment.name.removeprefix(SEGMENT).split("-")[0]
    return int(count) if count.isdecimal() else 0


def segments_in(namespace: Path) -> list[Path]:
    """Files of a namespace's segments, sorted."""
    return sorted(namespace.glob(f"{SEGMENT}*{SEGMENT_SUFFIX}"))


def _statuses(folder: Path) -> dict[Path, os.stat_result]:
    """Every segment of every namespace, without those that another process is removing."""
    statuses = {}
    for path in folder.glob(f"*/{SEGMENT}*{SEGMENT_SUFFIX}"):
        with suppress(FileNotFoundError):
            statuses[path] = path.stat()
    return statuses
