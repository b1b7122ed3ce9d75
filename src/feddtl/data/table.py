"""The common form of every image source: lazily read images with labels and domains."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from PIL import Image

from feddtl.data.decode import EncodedImage, pixel_digest

DEFAULT_PROMPT = "a photo of a {class}."
ONE_DOMAIN = ("all",)  # names of the domains of a source without domains
Indices = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class ImageTable:
    """Images of one split with integer labels; nothing is decoded before `read`.

    Attributes:
        reader: Row i of the underlying source, as the source stores it or as an RGB image; raises DataError if it
            cannot be read.
        rows: (N,) rows of the source that belong to this table.
        labels: (N,) class ids.
        domains: (N,) domain ids; all zero if the source has no domains.
    """

    reader: Callable[[int], EncodedImage | Image.Image]
    rows: Indices
    labels: Indices
    domains: Indices

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Image.Image:
        """RGB image at an index of this table. Raises DataError if it cannot be decoded."""
        stored = self.reader(int(self.rows[index]))
        return stored.decode() if isinstance(stored, EncodedImage) else stored

    def digest(self, index: int) -> bytes:
        """16 bytes that identify the content of the image at an index, independent of its file name.

        An image that is stored in encoded form is not decoded.

        Raises:
            DataError: The image cannot be read.
        """
        stored = self.reader(int(self.rows[index]))
        if isinstance(stored, EncodedImage):
            return stored.digest()
        image = stored.convert("RGB")
        return pixel_digest(*image.size, image.tobytes())

    def select(self, indices: Sequence[int] | Indices) -> ImageTable:
        """The images at these indices, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return ImageTable(self.reader, self.rows[chosen], self.labels[chosen], self.domains[chosen])

    def relabelled(self, new_ids: Indices) -> ImageTable:
        """The table with class `i` renumbered as `new_ids[i]`, without the images of classes whose new id is -1."""
        chosen = self.select(np.flatnonzero(new_ids[self.labels] >= 0))
        return replace(chosen, labels=new_ids[chosen.labels])


@dataclass(frozen=True)
class ImageDataset:
    """A data set, as returned by every source.

    Attributes:
        name: Short name for tables and file names.
        train: Training images.
        test: Test images; never used for selection.
        class_names: Name per class id, in the data set's own order.
        domain_names: Name per domain id; one entry if there are no domains.
        prompt_template: Text with `{class}` in place of the class name; several, one a line.
        notes: What the user should know (e.g. that a test split was held out from the training images).
    """

    name: str
    train: ImageTable
    test: ImageTable
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...] = ONE_DOMAIN
    prompt_template: str = DEFAULT_PROMPT
    notes: tuple[str, ...] = ()


def of_classes(table: ImageTable, classes: range) -> ImageTable:
    """Images of consecutive classes, with labels counted from the first of them."""
    kept = table.select(np.flatnonzero((table.labels >= classes.start) & (table.labels < classes.stop)))
    return ImageTable(kept.reader, kept.rows, kept.labels - classes.start, kept.domains)


@dataclass(frozen=True)
class JoinedReader:
    """The rows of several sources, one source after another.

    Attributes:
        readers: Of each source.
        starts: Row at which each source starts, ascending from 0.
    """

    readers: tuple[Callable[[int], EncodedImage | Image.Image], ...]
    starts: tuple[int, ...]

    def __call__(self, row: int) -> EncodedImage | Image.Image:
        """The image of one row."""
        source = bisect_right(self.starts, row) - 1
        return self.readers[source](row - self.starts[source])


def joined_tables(tables: Sequence[ImageTable]) -> ImageTable:
    """The images of one or more tables, one table after another, with their labels and domains."""
    sizes = [int(table.rows.max(initial=-1)) + 1 for table in tables]
    starts = [0, *accumulate(sizes[:-1])]
    return ImageTable(
        JoinedReader(tuple(table.reader for table in tables), tuple(starts)),
        np.concatenate([table.rows + start for table, start in zip(tables, starts, strict=True)]),
        np.concatenate([table.labels for table in tables]),
        np.concatenate([table.domains for table in tables]),
    )
