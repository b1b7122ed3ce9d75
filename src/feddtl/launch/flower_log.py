"""What Flower's programs say while they run: shown without the routine, and without what is no error."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Flower's own levels, those of its HTTP server with and without a time before them, and empty lines.
ROUTINE = re.compile(r"(\S+Z )?(DEBUG|INFO)\b|Successfully installed |\s*$")
# SuperLink calls these errors: a key that it knows from an earlier start, and a client that asks once more about a
# run that has just ended.
NO_ERROR = re.compile(r"ERROR\b.*(Public key already in use|exception: Run is finished\.)")
# Lines of a traceback that are not indented, and the exceptions of a process that lost the one it talks to, or is told
# to end: that it did is told in one line.
OF_A_TRACEBACK = re.compile(
    r"Traceback \(most|Exception in thread |The above exception was|During handling of the above"
)
PARTED = re.compile(r"(httpx|httpcore)\.|KeyboardInterrupt\b|For more information check: https://")
# What the server and a run's log call the client's node.
IDENTITY = re.compile(r"SuperNode ID: \d+")
# SuperNode's words about its messages, and when the server refuses it; for which reason is in the server's log alone.
RUN = re.compile(r"\[RUN (\d+)(?:, ROUND (\d+))?\]")
MESSAGE = re.compile(r"(Receiving|Sending): (query|train|evaluate) message")
REFUSAL = "Failed to activate SuperNode"
TOLD = {
    ("Receiving", "query"): "run {run} asks whether this client can take part",
    ("Receiving", "train"): "run {run}, round {round}: training",
    ("Sending", "train"): "run {run}, round {round}: sending the update",
    ("Receiving", "evaluate"): "run {run}: scoring the final model",
}


class FlowerLog:
    """Passes on what a program says to standard error.

    Args:
        verbose: All of it, with the routine.
    """

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._traceback: list[str] = []  # lines that are held back until it ends

    def hear(self, line: str) -> None:
        """One line, with its end."""
        plain = COLOUR.sub("", line)
        if self._verbose:
            self._show([line])
        elif ROUTINE.match(plain) or NO_ERROR.match(plain):
            return
        elif OF_A_TRACEBACK.match(plain) or (self._traceback and plain[0].isspace()):
            self._traceback.append(line)
        else:  # the line that ends a traceback names the exception
            held, self._traceback = self._traceback, []
            if not PARTED.match(plain):
                self._show([*held, line])

    def _show(self, lines: list[str]) -> None:
        sys.stderr.write("".join(lines))
        sys.stderr.flush()


class SuperNodeLog(FlowerLog):
    """Also tells that the server let a client in, which message of which run and round the client works at, and whether
    the server refused it.

    Args:
        note: Told of it as it comes.
        verbose: See `FlowerLog`; it is then in what is passed on.
    """

    def __init__(self, note: Callable[[str], None], *, verbose: bool) -> None:
        super().__init__(verbose=verbose)
        self._note = note
        self._run = self._round = ""
        self.refused = False

    def hear(self, line: str) -> None:
        """See `FlowerLog.hear`."""
        super().hear(line)
        self.refused |= REFUSAL in line
        if (identity := IDENTITY.search(line)) and not self._verbose:
            self._note(f"connected, {identity[0]}")
        if about := RUN.search(line):
            self._run, self._round = about[1], about[2] or ""
        message = MESSAGE.search(line)
        if message and not self._verbose and (told := TOLD.get((message[1], message[2]))):
            self._note(told.format(run=self._run, round=self._round))
