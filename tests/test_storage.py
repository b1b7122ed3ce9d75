"""Files and folders that are whole or absent, whatever goes wrong in between."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from safetensors import SafetensorError

from feddtl.errors import RunError
from feddtl.storage import (
    json_text,
    new_folder,
    only_writer,
    remove_drafts,
    storage_errors,
    without_nan,
    write_atomic,
    write_json_atomic,
    write_text_atomic,
)


def no_space(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    for text in ("first", "second, ä"):
        write_text_atomic(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert names(tmp_path) == ["a.txt"]
    assert file.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("place", ["os.fsync", "os.replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    monkeypatch.setattr(place, no_space)
    with pytest.raises(RunError, match="is full"):
        write_text_atomic(file, "new")
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "folder") as draft:
        (draft / "sub").mkdir()
        (draft / "sub" / "file").write_text("content")
        assert not (tmp_path / "deep" / "folder").exists()
    assert (tmp_path / "deep" / "folder" / "sub" / "file").read_text() == "content"
    assert names(tmp_path / "deep") == ["folder"]


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt()])
def test_a_folder_that_is_not_finished_never_appears(tmp_path: Path, error: BaseException) -> None:
    def begin() -> NoReturn:
        with new_folder(tmp_path / "folder") as draft:
            (draft / "file").write_text("half")
            raise error

    with pytest.raises(type(error)):
        begin()
    assert names(tmp_path) == []


def test_an_existing_folder_is_replaced_only_on_request(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with new_folder(tmp_path / "folder", replace=True) as draft:
            (draft / text).write_text(text)
    assert names(tmp_path / "folder") == ["second"]
    with pytest.raises(RunError, match="Cannot write"), new_folder(tmp_path / "folder") as draft:
        (draft / "third").write_text("third")
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["second"]


def test_a_failed_replacement_leaves_the_old_folder(tmp_path: Path) -> None:
    with new_folder(tmp_path / "folder") as draft:
        (draft / "first").write_text("first")
    with pytest.raises(RunError, match="is full"), new_folder(tmp_path / "folder", replace=True) as draft:
        no_space()
    assert names(tmp_path / "folder") == ["first"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "is full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError("strange"), "strange"),
    ],
)
def test_what_storage_errors_say(tmp_path: Path, error: Exception, text: str) -> None:
    with pytest.raises(RunError) as caught, storage_errors(tmp_path / "run"):
        raise error
    assert text in caught.value.message
    assert str(tmp_path / "run") in caught.value.message
    assert caught.value.hint


def test_only_drafts_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real drafts, as `kill -9` leaves them: their own clearing away is switched off."""
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", no_space)
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(RunError), new_folder(tmp_path / "checkpoint") as draft:
            (draft / "file").write_text("half")
        with pytest.raises(RunError):
            write_text_atomic(tmp_path / "a.json", "half")
    assert len(names(tmp_path)) == 2
    for name in ("kept.draft", ".kept", "draft"):
        (tmp_path / name).write_text("mine")
    remove_drafts(tmp_path)
    assert names(tmp_path) == [".kept", "draft", "kept.draft"]
    remove_drafts(tmp_path / "missing")


def test_json_has_no_nan(tmp_path: Path) -> None:
    value = {"a": math.nan, "b": [1, math.inf, {"c": (-math.inf, 2.5)}], "d": "NaN", "e": None, "f": True}
    expected = {"a": None, "b": [1, None, {"c": [None, 2.5]}], "d": "NaN", "e": None, "f": True}
    assert without_nan(value) == expected
    assert json.loads(json_text(value)) == expected
    write_json_atomic(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == expected


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with only_writer(tmp_path), pytest.raises(RunError, match="Another process is writing"), only_writer(tmp_path):
        pass
    with only_writer(tmp_path):
        assert names(tmp_path) == []  # no lock file stays behind


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with only_writer(tmp_path):
        pass


def test_only_writer_of_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=os.strerror(errno.ENOENT)), only_writer(tmp_path / "missing"):
        pass


@pytest.mark.parametrize(("mode", "of_files"), [(0o755, 0o644), (0o700, 0o600)])
def test_files_of_a_new_folder_are_readable_as_the_folder_is(tmp_path, mode, of_files):
    """Whatever the libraries do that write them."""
    with new_folder(tmp_path / "new", mode=mode) as draft:
        (draft / "private.safetensors").touch(mode=0o600)
        (draft / "sub").mkdir()
        (draft / "sub" / "open.json").touch(mode=0o644)
    for path in ("private.safetensors", "sub/open.json"):
        assert (tmp_path / "new" / path).stat().st_mode & 0o777 == of_files


@pytest.mark.parametrize("write", [lambda path: write_atomic(path, b"new"), lambda path: _one_file(path)])
def test_drafts_of_killed_processes_are_removed_and_others_stay(tmp_path: Path, write: Callable[[Path], None]) -> None:
    names = (".out.old1.draft", ".out.locked.draft", ".out.new.draft", ".other.old.draft")
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_bytes(b"x")
        os.utime(tmp_path / name, (0, 0) if "new" not in name else None)
    (tmp_path / ".out.old2.draft").write_bytes(b"half")
    os.utime(tmp_path / ".out.old2.draft", (0, 0))
    with only_writer(tmp_path / ".out.locked.draft"):
        write(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1:], "out"])


def _one_file(path: Path) -> None:
    with new_folder(path) as draft:
        (draft / "file").write_bytes(b"new")
