"""Claims on images, with which processes that fill the same folder share the work and never wait in a circle."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from feddtl.models.cache.segments import split_keys
from feddtl.storage import DRAFT

LOCK = ".lock"
CLAIM = ".claim-"
# On a file system without locks, a draft this old counts as left by a killed process.
STALE_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Claim:
    """What this process computes while the claim lasts.

    Attributes:
        keys: Of the images, in the requested order.
        token: Part of the name of every draft that the claim protects.
    """

    keys: tuple[bytes, ...]
    token: str


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Lock a folder for a moment. Yields whether the file system has locks, since some network ones do not."""
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield _lock(file, fcntl.LOCK_EX)
    finally:
        os.close(file)


@contextmanager
def claimed(folder: Path, keys: Collection[bytes]) -> Iterator[Claim]:
    """Claim the keys that no living process has claimed, until the block or the process ends.

    A claim is a locked file of keys, which the system unlocks even if the process is killed. A process waits for the
    claims of others only when it has none itself, so none wait in a circle.
    """
    token = secrets.token_hex(8)
    with locked(folder) as has_locks:
        claims = _living(folder) if has_locks else {}
        _remove_drafts(folder, [path.name.removeprefix(CLAIM) for path in claims] if has_locks else None)
        taken = frozenset[bytes]().union(*claims.values())
        mine = tuple(key for key in keys if key not in taken)
        file = _write_claim(folder / f"{CLAIM}{token}", mine) if has_locks else None
    try:
        yield Claim(mine, token)
    finally:
        if file is not None:
            (folder / f"{CLAIM}{token}").unlink(missing_ok=True)
            os.close(file)


def wait_for_claims(folder: Path, keys: Collection[bytes]) -> None:
    """Wait for the end of all claims that now include any of these keys."""
    wanted = frozenset(keys)
    with locked(folder) as has_locks:
        paths = [path for path, taken in _living(folder).items() if taken & wanted] if has_locks else []
        files = [os.open(path, os.O_RDWR) for path in paths]
    try:
        for file in files:
            _lock(file, fcntl.LOCK_SH)
    finally:
        for file in files:
            os.close(file)


def _living(folder: Path) -> dict[Path, frozenset[bytes]]:
    """Claims of living processes, with their keys; removes those of dead ones. The folder is locked."""
    living = {}
    for path in folder.glob(f"{CLAIM}*"):
        with suppress(FileNotFoundError):
            file = os.open(path, os.O_RDWR)
            try:
                if _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    path.unlink(missing_ok=True)
                else:
                    living[path] = frozenset(split_keys(path.read_bytes()))
            finally:
                os.close(file)
    return living


def _write_claim(path: Path, keys: Collection[bytes]) -> int:
    """A locked file with the keys. The folder is locked."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    _lock(file, fcntl.LOCK_EX)
    with os.fdopen(os.dup(file), "wb") as stream:
        stream.write(b"".join(keys))
    return file


def _remove_drafts(folder: Path, living: Collection[str] | None) -> None:
    """Remove drafts of dead processes: those without a living claim, or old ones on a file system without locks."""
    for draft in folder.glob(f".*{DRAFT}"):
        with suppress(FileNotFoundError):
            if living is None:
                dead = time.time() - draft.stat().st_mtime > STALE_SECONDS
            else:
                dead = not any(token in draft.name for token in living)
            if dead:
                draft.unlink()


def _lock(file: int, operation: int) -> bool:
    """Lock a file. False if another process has locked it or the file system has no locks."""
    try:
        fcntl.flock(file, operation)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            return False
        raise
    return True
