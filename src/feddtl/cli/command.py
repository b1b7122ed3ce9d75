"""What every command is, and how its flags are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from feddtl.cli.help_flags import asks_for_help, description, in_paragraphs

# `--json`, without a `--no-json` beside it.
SWITCHES = (tyro.conf.FlagCreatePairsOff,)
Kind = TypeVar("Kind", bound="Command")


class Command:
    """A command: its flags are the fields of a frozen dataclass, its work is `execute`."""

    @classmethod
    def parse(cls: type[Kind], name: str, words: Sequence[str]) -> Kind:
        """The command that the words after its name describe. Exits with 0 after `--help` and with 2 for bad flags."""
        return parse_flags(cls, name, words)

    def opening(self) -> str:
        """What the command does first, in words, if that takes more than a moment: heavy imports take seconds.

        A terminal shows it until something is printed. Empty: nothing is shown, as with `--quiet` and `--json`.
        """
        return ""

    def execute(self) -> int:
        """Do the work; returns the exit code."""
        raise NotImplementedError


def parse_flags(kind: type[Kind], name: str, words: Sequence[str], default: Any = None) -> Kind:
    """The command of the flags among the words, with the values of `default`, if any, where no flag is given."""
    words_above = None
    if asks_for_help(words):
        words_above = description(kind)
        kind = kind if default is not None else in_paragraphs(kind)
    command: Kind = tyro.cli(
        kind, prog=f"feddtl {name}", args=words, config=SWITCHES, default=default, description=words_above
    )
    return command
