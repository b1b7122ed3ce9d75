"""`feddtl export --push`: what is uploaded, to whom, and when nothing is, against a Hub on the loopback address."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from cli.small_runs import Command, contents, refused
from cli.stand_in_hub import StandInHub, stand_in_hub

WORDS = ("--format", "embeddings", "--push", "lab/birds")


class Terminal(io.StringIO):
    """Standard input on which somebody answers."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """An empty Hub, whose token the user has."""
    with stand_in_hub("hf_right") as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        yield server


@pytest.mark.parametrize("private", [True, False])
def test_what_is_shown_is_uploaded_once_it_is_wanted(
    hub: StandInHub, feddtl: Command, finished: Path, monkeypatch: pytest.MonkeyPatch, private: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    answer = feddtl("export", finished, "out", *WORDS, *(["--private"] if private else []))
    assert answer.code == 0, answer.err
    assert f"To {hub.url}/lab/birds ({'private' if private else 'public'}: " in answer.out
    assert hub.private == {"lab/birds": private}
    assert hub.files == contents(Path("out"))
    assert list(hub.stored.values()) == [Path("out/class_embeddings.safetensors").read_bytes()]
    for name in hub.files:
        assert f"  {name}\n" in answer.out
    assert f"Uploaded: {hub.url}/lab/birds/commit/1" in answer.out


def test_no_is_an_answer_and_without_a_terminal_nothing_is_done(
    hub: StandInHub, feddtl: Command, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("\n"))
    answer = feddtl("export", finished, "out", *WORDS)
    assert (answer.code, "Nothing was uploaded; out is complete." in answer.out) == (0, True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    refused(feddtl("export", finished, "other", *WORDS), "no terminal to answer on", "Add --yes")
    assert not Path("other").exists()
    assert hub.requests == []


def test_an_existing_repository_keeps_its_readers(hub: StandInHub, feddtl: Command, finished: Path) -> None:
    hub.private["lab/birds"] = False
    answer = feddtl("export", finished, "out", *WORDS, "--private", "--yes")
    assert answer.code == 1
    assert "lab/birds exists and is public; nothing was uploaded." in answer.err
    assert hub.files == {}
    assert feddtl("export", finished, "again", *WORDS, "--yes").code == 0
    assert hub.files == contents(Path("again"))


def test_a_refusal_of_the_hub_and_the_next_step(
    hub: StandInHub, feddtl: Command, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    answer = feddtl("export", finished, "out", *WORDS, "--yes")
    assert answer.code == 1
    assert "Nothing was committed to lab/birds: " in answer.err
    assert "401" in answer.err
    assert "hf upload lab/birds out" in answer.err
    assert "hf_wrong" not in answer.err
    assert Path("out/README.md").is_file()


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (("--push", "birds"), "no repository of the Hub"),
        (("--push", "a/b/c"), "no repository of the Hub"),
        (("--private",), "--private has no effect without --push"),
        (("--yes",), "--yes has no effect without --push"),
    ],
)
def test_flags_that_fit_no_upload(feddtl: Command, finished: Path, words: tuple[str, ...], needle: str) -> None:
    refused(feddtl("export", finished, "out", *words), needle)
    assert not Path("out").exists()
