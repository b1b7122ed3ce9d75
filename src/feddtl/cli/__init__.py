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
from feddtl.cli.output import StandardStreams, standard_streams
from feddtl.cli.parse_errors import plain_parse_errors
from feddtl.cli.printing import print_aside, print_error, print_text
from feddtl.cli.signals import ended_by_signals
from feddtl.errors import FeddtlError
from feddtl.memory import memory_errors

# Of the umask: users outside the group may write to no file.
NOBODY_ELSE = 0o002
DESCRIPTION = "Federated fine-tuning of CLIP: images stay on the clients, one model understands all of them."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Bad flags exit with 2.

    Returns:
        0 done, 1 a FeddtlError or lost output, 130 interrupted; a signal exits with 128 and its number.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    os.umask(os.umask(NOBODY_ELSE) | NOBODY_ELSE)
    _let_waiting_threads_sleep()
    with ended_by_signals(), standard_streams() as streams:
        try:
            code = _execute(words, streams)
        except SystemExit as exit_:
            if not exit_.code and streams.output_is_lost():
                raise SystemExit(1) from None
            raise
        return 1 if streams.output_is_lost() and code == 0 else code


def _execute(words: Sequence[str], streams: StandardStreams) -> int:
    if words == ["--version"]:
        print_text(f"feddtl {version('feddtl')}")
        return 0
    try:
        with memory_errors():
            with plain_parse_errors(words[0] if words else ""):
                command = _parse(words)
            streams.open_with(command.opening())
            return command.execute()
    except FeddtlError as error:
        print_error(error)
        return 1
    except KeyboardInterrupt:
        print_aside("interrupted")
        return 130


def _let_waiting_threads_sleep() -> None:
    """Do not spin: beside other work, a thread would spin for a whole slice of time, at every wait for another thread.

    OpenMP reads the policy when torch is imported. Child processes inherit it. benchmarks/README.md has the figures.
    """
    if not any(name in os.environ for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")):
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _parse(words: Sequence[str]) -> Command:
    if words and words[0] in COMMANDS:
        return COMMANDS[words[0]].parse(words[0], words[1:])
    kinds: Any = Union[tuple(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in COMMANDS.items())]  # noqa: UP007
    command: Command = tyro.cli(kinds, prog="feddtl", args=words, description=DESCRIPTION, config=SWITCHES)
    return command


__all__ = ["main"]
