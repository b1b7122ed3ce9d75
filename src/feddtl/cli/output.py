"""The standard streams of a command: every character can be printed, and a stream that fails ends no work.

Results go to standard output, so a command whose output is lost fails, after it has done its work. Progress and notes
go to standard error, where a lost line changes nothing.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from feddtl.cli.printing import print_error
from feddtl.errors import FeddtlError
from feddtl.line_breaks import terminal_columns
from feddtl.units import harmless, shortened

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ERRORS = "feddtl-plain"
ERASE = "\r\x1b[K"
SYMBOLS = str.maketrans(
    {
        **{"–": "-", "—": "-", "−": "-", "‑": "-", "…": "...", "·": "*", "×": "x", "→": "->", "±": "+-"},
        **{"░": ".", "▒": ":", "▓": "*", "█": "#", "Δ": "d", "α": "alpha", "⌈": "", "⌉": "", "�": "?"},
        **{"“": '"', "”": '"', "‘": "'", "’": "'", "\u00a0": " "},
    }
)
"""What is printed for a symbol of the tables and notes where the encoding lacks it."""


class StandardStreams:
    """The standard streams of a command while it runs.

    Args:
        output: Standard output; None if a caller has redirected it.
        opening: The line that is shown until something else is.
    """

    def __init__(self, output: _Stream | None, opening: _Opening) -> None:
        self._output, self._opening = output, opening

    def open_with(self, text: str) -> None:
        """Show a line on the terminal behind standard error, if any, until something else is printed."""
        if text and isinstance(sys.stderr, io.TextIOWrapper) and (columns := terminal_columns(sys.stderr)):
            self._opening.show(shortened(harmless(text), columns - 1))

    def output_is_lost(self) -> bool:
        """Flush standard output; says on standard error if some of it was lost, and returns whether."""
        sys.stdout.flush()
        if self._output is None or not self._output.error:
            return False
        error = self._output.error
        if error != errno.EPIPE:  # a reader such as `head` has seen enough
            reason = "it is closed" if error == errno.EBADF else os.strerror(error)
            print_error(
                FeddtlError(
                    f"Cannot write to standard output: {reason}.",
                    "The command has done its work and its files are whole, but what it prints is lost.",
                )
            )
        return True


@contextmanager
def standard_streams() -> Iterator[StandardStreams]:
    """Replace the standard streams within the block; those that a caller has redirected stay as they are."""
    codecs.register_error(ERRORS, plain)
    _occupy_descriptors()
    before, opening = (sys.stdout, sys.stderr), _Opening()
    output = _Stream(1, opening) if sys.stdout is sys.__stdout__ else None
    if output is not None:
        sys.stdout = _text_stream(output, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text_stream(_Stream(2, opening), sys.stderr)
    try:
        yield StandardStreams(output, opening)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        opening.erase()
        sys.stdout, sys.stderr = before


def plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler of `codecs`: bytes of a file name as they are, symbols as ASCII, other characters escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = error.object[error.start]
    if "\udc80" <= letter <= "\udcff":
        return bytes([ord(letter) - 0xDC00]), error.start + 1
    substitute = letter.translate(SYMBOLS)
    shown = substitute if substitute != letter else letter.encode("ascii", "backslashreplace").decode()
    return shown, error.start + 1


class _Opening:
    """A line on the terminal behind standard error, which is erased before anything else is printed there."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, text: str) -> None:
        """Show a line that fits the terminal."""
        self._shown = os.environ.get("TERM", "dumb") != "dumb"  # which can erase nothing
        self._write(text if self._shown else f"{text}\n")

    def erase(self) -> None:
        """Erase the line, if it is shown."""
        if self._shown:
            self._shown = False
            self._write(ERASE)

    def _write(self, text: str) -> None:
        with suppress(OSError):
            os.write(2, text.encode(sys.stderr.encoding, ERRORS))


class _Stream(io.RawIOBase):
    """A descriptor that is written to until it fails; from then on, what is written is dropped.

    Args:
        descriptor: 1 or 2.
        opening: Erased before the first write to a terminal.

    Attributes:
        error: Number of the first failure, as in `errno`; 0 for none.
    """

    def __init__(self, descriptor: int, opening: _Opening) -> None:
        self._descriptor, self._opening = descriptor, opening
        self._closed_before = (sys.stdout if descriptor == 1 else sys.stderr) is None
        self.name = ("<stdout>", "<stderr>")[descriptor - 1]
        self.error = 0

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: ReadableBuffer, /) -> int:
        size = len(memoryview(data))
        if self._closed_before:
            self.error = self.error or errno.EBADF
        if self.error:
            return size
        if self.isatty():
            self._opening.erase()
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            select.select([], [self._descriptor], [])
            return 0
        except OSError as error:
            self.error = error.errno or errno.EIO
            return size


def _text_stream(stream: _Stream, before: TextIO | None) -> TextIO:
    # Standard error is always written line by line, a file on standard output in large pieces.
    by_line = stream.isatty() or stream.fileno() == 2 or getattr(before, "write_through", False)
    encoding = getattr(before, "encoding", None) or "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(stream), encoding, ERRORS, line_buffering=by_line)


def _occupy_descriptors() -> None:
    """Open the null device where a standard stream is closed, so that no file of a run gets its number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
