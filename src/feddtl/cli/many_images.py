"""What `predict` and `embed` share: many image files, a bar on standard error, and what happens to damaged ones."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from feddtl.cli.printing import print_line
from feddtl.errors import DataError
from feddtl.notes import noted

if TYPE_CHECKING:
    from feddtl.data.given_images import GivenImage
    from feddtl.image_stream import OnDamaged


class ImageFiles:
    """Image files to go through once.

    Args:
        paths: Files and folders.
        skip_damaged: Whether images that cannot be read are named and left out.

    Attributes:
        names: Their paths, in order.
        skipped: Number of images that were left out so far.

    Raises:
        DataError: See `list_images`.
    """

    def __init__(self, paths: Sequence[str], *, skip_damaged: bool) -> None:
        from feddtl.cli.bars import error_console
        from feddtl.data.listing import list_images

        self._skip_damaged = skip_damaged
        self._console = error_console()
        self.skipped = 0
        self.names = list_images(paths, skip_unread=skip_damaged, note=self.note)

    def note(self, text: str) -> None:
        """Print a note on standard error, above the bar."""
        print_line(self._console, noted(text))

    @property
    def damaged(self) -> OnDamaged | None:
        """What to do with an image that cannot be read; None: fail."""
        return self._skip if self._skip_damaged else None

    def _skip(self, error: DataError) -> None:
        self.skipped += 1
        self.note(f"Skipped: {error.message}")

    @contextmanager
    def read(self, *, bar: bool) -> Iterator[Callable[[int], None]]:
        """Within the block, the images are read; an image that cannot be read leads to an error that names all such.

        Args:
            bar: Whether a terminal gets a bar.

        Yields:
            Called with the number of images that are done.
        """
        from feddtl.cli.bars import Bars
        from feddtl.data.image_checks import all_damaged_named
        from feddtl.data.listing import table_of
        from feddtl.data.loading import thread_count

        bars = Bars(self._console, disable=not bar)
        try:
            with bars, all_damaged_named([table_of(self.names)], thread_count(0), self.note):
                total = len(self.names)
                yield lambda done: bars.draw("images", "images", done + self.skipped, total, estimate=True)
        except DataError as error:
            raise DataError(error.message, f"{error.hint} Or leave such images out with --skip-damaged.") from None

    def images(self) -> Iterator[GivenImage]:
        """The images, not yet read."""
        from feddtl.data.given_images import given_images

        return given_images(self.names)


def utf8(name: str) -> str:
    """A path as text that any file can contain: bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode(errors="backslashreplace")


def is_on_terminal() -> bool:
    """Whether results are printed where the bar is."""
    return sys.stdout.isatty()
