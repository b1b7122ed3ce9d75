"""Atomic writes of files and folders, and errors with a remedy when storage fails."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

from feddtl.errors import RunError

# A file being written has this suffix and a leading dot until it is complete and gets its final name.
DRAFT = ".draft"
SECONDS_TO_LOCK = 2.0  # between the creation of a draft and its lock
FOLDER = 0o775  # less the umask
# `is_locked` holds the lock for a moment, which must not refuse a writer that begins just then.
TRIES, SECONDS_BETWEEN_TRIES = 3, 0.05


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a failed read or write into a RunError that names the path."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise RunError(
                f"The disk of {path} is full; files that were complete before are intact.",
                "Free some disk space and try again. Continue a run with `feddtl run --resume` and its folder.",
            ) from None
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(f"Cannot write {path}: {reason}.", "Check the path and your permissions.") from None


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """Readable JSON, or one line without `indent`; NaN and infinities, which JSON does not have, become null."""
    return json.dumps(without_nan(value), indent=indent, allow_nan=False) + "\n"


def without_nan(value: Any) -> Any:
    """The value with None for every NaN or infinity in nested dictionaries, lists and tuples."""
    if isinstance(value, Mapping):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_whole(path: Path) -> bytes:
    """The content of a file.

    Raises:
        ValueError: There is no such file, so that a folder that should have it is damaged.
        RunError: It cannot be read, although it may be intact.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"there is no {path.name}") from None
    except OSError as error:
        raise RunError(
            f"Cannot read {path}: {error.strerror}.", "Check your permissions and the disk; the file may be intact."
        ) from None


def make_folder(path: Path) -> None:
    """Create a folder and those above it, which others may not write to whatever the umask is."""
    for folder in (*reversed(path.parents), path):
        if not folder.is_dir():
            folder.mkdir(mode=FOLDER, exist_ok=True)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """An open file that has its name if the block ends without an exception, and otherwise does not appear at all.

    It replaces a file of this name atomically: after a crash, and for every reader, there is the old or the new one.
    """
    with storage_errors(path):
        _remove_abandoned_drafts(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=DRAFT)
        try:
            with os.fdopen(handle, "wb") as file:
                _try_to_lock(file.fileno())
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file atomically; see `new_file`."""
    with new_file(path) as file:
        file.write(content)


def write_text_atomic(path: Path, text: str) -> None:
    """`write_atomic` of a text in UTF-8."""
    write_atomic(path, text.encode())


def write_json_atomic(path: Path, value: Any) -> None:
    """Replace a JSON file atomically."""
    write_text_atomic(path, json_text(value))


@contextmanager
def new_folder(path: Path, *, replace: bool = False, mode: int = 0o755) -> Iterator[Path]:
    """A folder that appears completely at `path` if the block ends without an exception, and otherwise not at all.

    Args:
        path: Final path of the folder.
        replace: Whether it replaces an existing folder.
        mode: Permissions of the folder, and of its files.
    """
    with storage_errors(path):
        make_folder(path.parent)
        _remove_abandoned_drafts(path)
        draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=DRAFT))
        handle = os.open(draft, os.O_RDONLY)
        _try_to_lock(handle)
        try:
            yield draft
            for entry in (*draft.rglob("*"), draft):
                # A library may have made a file readable only for its owner, and a folder writable for all.
                entry.chmod(mode & 0o666 if entry.is_file() else mode)
                flush(entry)
            draft.chmod(mode)
            if replace:
                shutil.rmtree(path, ignore_errors=True)
            draft.replace(path)
            flush(path.parent)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        finally:
            os.close(handle)


def _try_to_lock(handle: int) -> bool:
    """Lock an open file or folder until it is closed or its process ends; whether nobody else has locked it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_abandoned_drafts(path: Path) -> None:
    """Remove what killed processes left of `path`; drafts of running processes are locked or new."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*{DRAFT}"):
        with suppress(OSError):
            if time.time() - draft.stat().st_mtime < SECONDS_TO_LOCK:
                continue
            handle = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if _try_to_lock(handle):
                    _remove(draft)
            finally:
                os.close(handle)


def _remove(draft: Path) -> None:
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)


def remove_drafts(folder: Path) -> None:
    """Remove partial files of a killed process from a folder; no process may be writing there."""
    for draft in folder.glob(f".*{DRAFT}"):
        _remove(draft)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; the system releases the lock even if the process is killed.

    Raises:
        RunError: Another process has locked it.
    """
    with storage_errors(folder):
        handle = os.open(folder, os.O_RDONLY)
    tries = 1
    # Some network file systems have no locks; there, a run is not protected from a second process.
    while _lock(handle, fcntl.LOCK_EX) is False:
        if tries == TRIES:
            os.close(handle)
            raise RunError(
                f"Another process is writing to {folder}.", "Wait until it ends, or choose another --output."
            )
        tries += 1
        time.sleep(SECONDS_BETWEEN_TRIES)
    try:
        yield
    finally:
        os.close(handle)


def is_locked(folder: Path) -> bool | None:
    """Whether a process is the only writer of a folder; None where the file system has no locks."""
    with storage_errors(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        locked = _lock(handle, fcntl.LOCK_SH)
        return None if locked is None else not locked
    finally:
        os.close(handle)


def _lock(handle: int, kind: int) -> bool | None:
    """Whether a lock was taken without waiting for it; None where there are no locks."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def flush(path: Path) -> None:
    """Make a file, or a folder's entries, survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
