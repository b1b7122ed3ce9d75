"""Reads the files that start feddtl as a service: which commands they run, and whether these commands take that."""

from __future__ import annotations

from pathlib import Path

import pytest

from feddtl.cli import main
from feddtl.cli.commands.client import Client
from feddtl.cli.commands.server import Server

INTEGRATIONS = Path(__file__).parents[2] / "integrations"


def understood(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Server | Client:
    """What `feddtl` makes of the words, without doing it."""
    asked: list[Server | Client] = []
    for command in (Server, Client):
        monkeypatch.setattr(command, "execute", lambda self: asked.append(self) or 0)
    assert main(words) == 0, words
    return asked[0]
