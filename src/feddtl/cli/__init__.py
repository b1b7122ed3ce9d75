"""The command line: `feddtl run | compare | evaluate | …`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any, Union

import tyro

from feddtl.cli.command import SWITCHES, Command
from feddtl.cli.commands import COMMANDS
from feddtl.cli.parse_errors import plain_parse_errors
from feddtl.errors import FeddtlError

DESCRIPTION = "Federated fine-tuning of CLIP: images stay on the clients, one model understands all of them."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 a FeddtlError, 130 interrupted. Bad flags exit with 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        print(f"feddtl {version('feddtl')}")
        return 0
    try:
        with plain_parse_errors():
            command = _parse(words)
        code = command.execute()
        sys.stdout.flush()
        return code
    except FeddtlError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, for instance `head`, has gone; what Python writes on its way out must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parse(words: Sequence[str]) -> Command:
    if words and words[0] in COMMANDS:
        return COMMANDS[words[0]].parse(words[0], words[1:])
    kinds: Any = Union[tuple(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in COMMANDS.items())]  # noqa: UP007
    command: Command = tyro.cli(kinds, prog="feddtl", args=words, description=DESCRIPTION, config=SWITCHES)
    return command


__all__ = ["main"]
