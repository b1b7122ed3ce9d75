"""What every command is, how its flags are read, and how it prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from feddtl.notes import noted
from feddtl.units import harmless

if TYPE_CHECKING:
    from rich.console import Console

# `--json`, without a `--no-json` beside it.
SWITCHES = (tyro.conf.FlagCreatePairsOff,)
Kind = TypeVar("Kind", bound="Command")


class Command:
    """A command: its flags are the fields of a frozen dataclass, its work is `execute`."""

    @classmethod
    def parse(cls: type[Kind], name: str, words: Sequence[str]) -> Kind:
        """The command that the words after its name describe. Exits with 0 after `--help` and with 2 for bad flags."""
        return parse_flags(cls, name, words)

    def execute(self) -> int:
        """Do the work; returns the exit code."""
        raise NotImplementedError


def parse_flags(kind: type[Kind], name: str, words: Sequence[str], default: Any = None) -> Kind:
    """The command of the flags among the words, with the values of `default`, if any, where no flag is given."""
    command: Kind = tyro.cli(kind, prog=f"feddtl {name}", args=words, config=SWITCHES, default=default)
    return command


def print_json(value: Any) -> None:
    """Print a value on standard output, NaN as null."""
    from feddtl.storage import json_text

    print(json_text(value), end="")


def print_note(text: str) -> None:
    """Print a note or a warning on standard error."""
    print(noted(text), file=sys.stderr)


def print_line(console: Console, line: str) -> None:
    """Print a line as it is: a terminal breaks a long one between words, a file gets it whole."""
    console.print(harmless(line), markup=False, emoji=False, highlight=False, soft_wrap=not console.is_terminal)
