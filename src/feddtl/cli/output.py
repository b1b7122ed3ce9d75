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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ERRORS = "feddtl-plain"
SYMBOLS = str.maketrans(
    {
        **{"–": "-", "—": "-", "−": "-", "‑": "-", "…": "...", "·": "*", "×": "x", "→": "->", "±": "+-"},
        **{"░": ".", "▒": ":", "▓": "*", "█": "#", "Δ": "d", "α": "alpha", "⌈": "", "⌉": "", "�": "?"},
        **{"“": '"', "”": '"', "‘": "'", "’": "'", "\u00a0": " "},
    }
)
"""What is printed for a symbol of the tables and notes where the encoding lacks it."""


@contextmanager
def standard_streams() -> Iterator[Callable[[], bool]]:
    """Replace the standard streams within the block; those that a caller has redirected stay as they are.

    Yields:
        A function that flushes standard output, says on standard error if some of it was lost, and returns whether.
    """
    codecs.register_error(ERRORS, plain)
    _occupy_descriptors()
    before = sys.stdout, sys.stderr
    output = _Stream(1) if sys.stdout is sys.__stdout__ else None
    if output is not None:
        sys.stdout = _text_stream(output, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text_stream(_Stream(2), sys.stderr)
    try:
        yield lambda: _is_lost(output)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
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


class _Stream(io.RawIOBase):
    """A descriptor that is written to until it fails; from then on, what is written is dropped.

    Args:
        descriptor: 1 or 2.

    Attributes:
        error: Number of the first failure, as in `errno`; 0 for none.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
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


def _is_lost(output: _Stream | None) -> bool:
    sys.stdout.flush()
    if output is None or not output.error:
        return False
    if output.error != errno.EPIPE:  # a reader such as `head` has seen enough
        reason = "it is closed" if output.error == errno.EBADF else os.strerror(output.error)
        print(f"error: Cannot write to standard output: {reason}.", file=sys.stderr)
        print("  The command has done its work and its files are whole, but what it prints is lost.", file=sys.stderr)
    return True


def _occupy_descriptors() -> None:
    """Open the null device where a standard stream is closed, so that no file of a run gets its number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
