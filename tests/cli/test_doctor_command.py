"""`feddtl doctor`: what it finds, and its exit code."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from cli.small_runs import Command

from feddtl.cli.commands import doctor
from feddtl.errors import ModelError
from feddtl.models.cache.folder import CacheEntry

Usage = namedtuple("Usage", "total used free")


def test_a_healthy_installation(feddtl: Command) -> None:
    answer = feddtl("doctor")
    assert answer.code == 0
    assert "problem" not in answer.out
    for text in ("torch", "transformers", "tiny-clip", "GB free", "CPUs"):
        assert text in answer.out


def test_json(feddtl: Command) -> None:
    answer = feddtl("doctor", "--json")
    found = json.loads(answer.out)
    assert set(found) == {"python", "packages", "device", "embedded model", "Hub cache", "activation cache", "disk"}
    assert all(check["ok"] for check in found.values())
    assert torch.__version__.split("+")[0] in found["packages"]["found"]


def test_little_space(feddtl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**12, 10**12, 10**8))
    answer = feddtl("doctor", "--json")
    assert answer.code == 1
    assert json.loads(answer.out)["disk"] == {"ok": False, "found": answer_text(answer.out, "disk")}
    assert "0.1 GB free" in answer_text(answer.out, "disk")


def answer_text(out: str, check: str) -> str:
    return str(json.loads(out)[check]["found"])


def test_a_package_that_is_missing(feddtl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feddtl.environment.PACKAGES", ("feddtl", "no-such-package"))
    answer = feddtl("doctor")
    assert answer.code == 1
    assert "no-such-package missing" in answer.out
    assert "problem" in answer.out


def test_a_check_that_fails_does_not_hide_the_others(feddtl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> tuple[bool, str]:
        raise ModelError("The weights are [damaged].", "Install feddtl again.")

    monkeypatch.setitem(doctor.CHECKS, "embedded model", fail)
    answer = feddtl("doctor")
    assert answer.code == 1
    assert "The weights are [damaged]." in answer.out
    assert "Install feddtl again." in answer.out
    assert "GB free" in answer.out


def test_the_cache_is_as_large_as_the_cache_command_says(
    feddtl: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A small cache is not '0.0 GB'."""
    entry = CacheEntry(tmp_path, {}, images=2, nbytes=10_400_000, last_used=0.0)
    monkeypatch.setattr("feddtl.models.cache.folder.cache_contents", lambda folder: [entry])
    found = answer_text(feddtl("doctor", "--json").out, "activation cache")
    listed = feddtl("cache").out
    assert "10.4 MB kept" in found
    assert "10.4 MB in" in listed


def test_offline_is_said(feddtl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "offline" in json.loads(feddtl("doctor", "--json").out)["Hub cache"]["found"]
