"""Files that are either whole or absent, and storage failures that say what to do."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from feddtl.errors import RunError


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a failed write into a RunError that names the place."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        full = number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if full:
            raise RunError(
                f"The disk of {path} is full; the last complete checkpoint is intact.",
                "Free some space, then go on with `feddtl run --resume` and this folder.",
            ) from None
        raise RunError(f"Cannot write {path}: {error}.", "Check the path and your rights to it.") from None


def write_text_atomic(path: Path, text: str) -> None:
    """Replace a file in one step: a reader, or a crash, sees the old or the new content, never a part."""
    with storage_errors(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_json_atomic(path: Path, value: Any) -> None:
    """Replace a JSON file in one step; NaN is not JSON and must not be in it."""
    write_text_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears at `path` whole, when the block ends without an exception, or not at all."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            yield draft
            for file in draft.rglob("*"):
                if file.is_file():
                    _flush(file)
            draft.chmod(0o755)
            draft.replace(path)
            _flush(path.parent)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


def _flush(path: Path) -> None:
    """Make a file or a folder's entries survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
