"""Files that are either whole or absent, and storage failures that say what to do."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from feddtl.errors import RunError

# What is being written has this ending and a dot in front, until it is whole and takes its own name.
DRAFT = ".draft"


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a failed read or write into a RunError that names the place."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise RunError(
                f"The disk of {path} is full; what was whole before is intact.",
                "Free some space and try again; a run goes on with `feddtl run --resume` and its folder.",
            ) from None
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(f"Cannot write {path}: {reason}.", "Check the path and your rights to it.") from None


def json_text(value: Any) -> str:
    """Readable JSON; NaN and infinities, which JSON does not have, become null."""
    return json.dumps(without_nan(value), indent=2, allow_nan=False) + "\n"


def without_nan(value: Any) -> Any:
    """The value with None for every NaN or infinity in nested dictionaries, lists and tuples."""
    if isinstance(value, Mapping):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file in one step: a reader, or a crash, sees the old or the new content, never a part."""
    with storage_errors(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=DRAFT)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def json_line(value: Any) -> str:
    """One line of JSON with null for NaN."""
    return json.dumps(without_nan(value), allow_nan=False) + "\n"


def write_text_atomic(path: Path, text: str) -> None:
    """`write_atomic` of a text in UTF-8."""
    write_atomic(path, text.encode())


def write_json_atomic(path: Path, value: Any) -> None:
    """Replace a JSON file in one step."""
    write_text_atomic(path, json_text(value))


@contextmanager
def new_folder(path: Path, *, replace: bool = False, mode: int = 0o755) -> Iterator[Path]:
    """A folder that appears at `path` whole, when the block ends without an exception, or not at all.

    Args:
        path: Where it will be.
        replace: Whether it takes the place of a folder that is there.
        mode: Who may enter it, and read its files.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=DRAFT))
        try:
            yield draft
            for entry in (*draft.rglob("*"), draft):
                if entry.is_file():
                    entry.chmod(mode & 0o666)  # a library may have written it for its owner alone
                flush(entry)
            draft.chmod(mode)
            if replace:
                shutil.rmtree(path, ignore_errors=True)
            draft.replace(path)
            flush(path.parent)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


def remove_drafts(folder: Path) -> None:
    """Remove what a killed process left half-written in a folder; nobody may be writing there."""
    for draft in folder.glob(f".*{DRAFT}"):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the system lets go of it even when the process is killed.

    Raises:
        RunError: Another process holds it.
    """
    with storage_errors(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems have no locks; a run there is not protected from a second one.
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(handle)
            raise RunError(
                f"Another process is writing to {folder}.", "Wait for it to end, or give another --output."
            ) from None
    try:
        yield
    finally:
        os.close(handle)


def flush(path: Path) -> None:
    """Make a file, or a folder's entries, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
