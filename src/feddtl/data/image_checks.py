"""Checks of the images themselves: all that cannot be read, and those that are both trained on and scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

from feddtl.data.decode import EncodedImage
from feddtl.data.file_tree import lines_of
from feddtl.data.loading import read_ahead
from feddtl.data.table import ImageTable
from feddtl.errors import DataError
from feddtl.units import counted, first_few

CHECKED_TOGETHER = 16
MOST_NAMES = 3


@contextmanager
def all_damaged_named(
    tables: Sequence[ImageTable], threads: int, note: Callable[[str], None] = lambda text: None
) -> Iterator[None]:
    """Within the block, an image that cannot be read leads to an error that names all such images.

    Args:
        tables: All images that are needed, also those that the block has not come to.
        threads: Threads that read; at least 1.
        note: Called if the other images are looked through.

    Raises:
        DataError: As the block; with several damaged images, one error names them.
    """
    try:
        yield
    except DataError as error:
        note("An image cannot be read; looking for others before the run ends.")
        found = damaged_images(tables, threads)
        if len(found) < 2:
            raise
        hints = dict.fromkeys(one.hint for one in found)
        raise DataError(
            f"{counted(len(found), 'image')} cannot be used:{lines_of([one.message for one in found])}",
            " ".join(list(hints)[:MOST_NAMES]),
        ) from error


def damaged_images(tables: Sequence[ImageTable], threads: int) -> list[DataError]:
    """The error of each image that cannot be read, in the order of the tables."""

    def check(part: tuple[ImageTable, range]) -> list[DataError]:
        table, positions = part
        return [error for at in positions if (error := _error_of(table, at))]

    parts = (
        (table, range(start, min(start + CHECKED_TOGETHER, len(table))))
        for table in tables
        for start in range(0, len(table), CHECKED_TOGETHER)
    )
    found = chain.from_iterable(read_ahead(check, parts, threads=threads))
    return list({error.message: error for error in found}.values())


def copies_note(
    train: Sequence[bytes], scored: Sequence[tuple[ImageTable, Sequence[bytes]]], what: str = "test images"
) -> str:
    """A note with the number of scored images that are trained on too; '' for none.

    Args:
        train: The content of each training image, see `ImageTable.digest`.
        scored: Tables of images to score, each with the content of its images.
        what: What the scored images are called.
    """
    known = set(train)
    copies = [(table, at) for table, contents in scored for at, content in enumerate(contents) if content in known]
    if not copies:
        return ""
    names = [
        stored.name for table, at in copies if isinstance(stored := table.reader(int(table.rows[at])), EncodedImage)
    ]
    total = sum(len(contents) for _, contents in scored)
    return (
        f"{len(copies)} of {total} {what} are training images too, byte for byte, so the accuracies promise too much "
        f"for new images. Remove the copies{': ' if names else ''}{first_few(names, MOST_NAMES)}."
    )


def _error_of(table: ImageTable, index: int) -> DataError | None:
    try:
        table.read(index)
    except DataError as error:
        return error
    return None
