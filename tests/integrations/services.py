"""Parses the commands in the files that start feddtl as a service."""

from __future__ import annotations

from pathlib import Path

import pytest

from feddtl.cli import main
from feddtl.cli.commands.client import Client
from feddtl.cli.commands.server import Server

INTEGRATIONS = Path(__file__).parents[2] / "integrations"


def parsed_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Server | Client:
    """The command that `feddtl` parses from the words, without executing it."""
    parsed: list[Server | Client] = []
    for command in (Server, Client):
        monkeypatch.setattr(command, "execute", lambda self: parsed.append(self) or 0)
    assert main(words) == 0, words
    return parsed[0]
