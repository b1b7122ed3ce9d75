"""Checks of the images themselves: all that cannot be read, and those that are both trained on and scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import numpy as np

from feddtl.data.decode import EncodedImage
from feddtl.data.file_tree import lines_of
from feddtl.data.loading import read_ahead
from feddtl.data.table import ImageTable
from feddtl.errors import DataError
from feddtl.notes import Warned
from feddtl.units import counted

CHECKED_TOGETHER = 16
MOST_NAMES, MOST_EXAMPLES = 3, 2
Contents = tuple[ImageTable, Sequence[bytes]]
MOST_LOOKED_AT, LARGEST_OF_14_BITS = 16, 1 << 14


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


def copies_note(train: Contents, scored: Sequence[Contents], what: str = "test images") -> str:
    """A warning with the number of scored images that are trained on too, and examples; '' for none.

    Args:
        train: The training images, each with its content, see `ImageTable.digest`.
        scored: The images to score.
        what: What the scored images are called.
    """
    originals, contents_of_originals = train
    first: dict[bytes, int] = {}
    for at, content in enumerate(contents_of_originals):
        first.setdefault(content, at)
    copies = [
        (table, at, first[content]) for table, found in scored for at, content in enumerate(found) if content in first
    ]
    if not copies:
        return ""
    pairs = [(_name_of(table, at), _name_of(originals, original)) for table, at, original in copies[:MOST_EXAMPLES]]
    examples = " and ".join(f"{copy} (trained on as {original})" for copy, original in pairs if copy and original)
    total = sum(len(found) for _, found in scored)
    return Warned(
        f"{len(copies)} of {total} {what} are training images too, byte for byte, so the accuracies promise too much "
        f"for new images. Remove the copies{', such as ' if examples else ''}{examples}."
    )


def _name_of(table: ImageTable, index: int) -> str:
    """Where an image is stored; '' for a generated one."""
    stored = table.reader(int(table.rows[index]))
    return stored.name if isinstance(stored, EncodedImage) else ""


def dark_note(table: ImageTable) -> str:
    """A warning if images of 16 bits use fewer of them, as of a camera with 14; '' for none.

    A dark picture is no error, so several are looked at, of all classes. Others than those of 16 bits cost one look.
    """
    largest: list[int] = []
    for at in np.unique(np.linspace(0, len(table) - 1, MOST_LOOKED_AT).astype(int)) if len(table) else ():
        value = _largest_of_16_bits(table, int(table.rows[at]))
        if value is None or value >= LARGEST_OF_14_BITS:
            return ""
        largest.append(value)
    if not any(largest):
        return ""
    return Warned(
        f"No value in {counted(len(largest), 'image')} of 16 bits exceeds {max(largest)} of 65535, so the pictures are "
        "at most a quarter as bright as white. If their camera has 14 bits or fewer, multiply the values (14 bits: by "
        "4) and save the images again."
    )


def _largest_of_16_bits(table: ImageTable, row: int) -> int | None:
    """None also for an image that cannot be read, which is named when it is needed."""
    try:
        stored = table.reader(row)
        return stored.largest_of_16_bits() if isinstance(stored, EncodedImage) else None
    except DataError:
        return None


def _error_of(table: ImageTable, index: int) -> DataError | None:
    try:
        table.read(index)
    except DataError as error:
        return error
    return None
