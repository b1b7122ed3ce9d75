"""From images to rows of activations: threads read and resize images while the model processes earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from feddtl.data.loading import read_ahead
from feddtl.data.table import ImageTable
from feddtl.models.cache.packed import Packed, StoredPrecision, pack
from feddtl.models.image_tower import ImageTower
from feddtl.models.preprocess import Preprocessing, view_key
from feddtl.timing import Stopwatch

# More images per pass are hardly faster, and the last pass of a table is padded.
MOST_TOGETHER = 128
# Images that a thread reads and resizes at a time.
LOADED_TOGETHER = 16
# Images that a thread hashes at a time.
NAMED_TOGETHER = 64


@dataclass(frozen=True)
class ImageViews:
    """n views of every image of a table; position p is view p % n of image p // n.

    Attributes:
        table: The images.
        views: Number of views of each image.
        preprocessing: The model's preprocessing.
    """

    table: ImageTable
    views: int
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.table) * self.views

    def load(self, position: int) -> Tensor:
        """One view, read and cropped. Raises DataError."""
        index, view = divmod(position, self.views)
        # The test transform needs no key.
        key = view_key(self.table.digest(index), view) if view else b""
        return self.preprocessing.view(self.table.read(index), view, key)

    def keys(self, threads: int) -> list[bytes]:
        """The key of each view, from its content. Raises DataError."""

        def name(start: int) -> list[bytes]:
            digests = map(self.table.digest, range(start, min(start + NAMED_TOGETHER, len(self.table))))
            return [view_key(digest, view) for digest in digests for view in range(self.views)]

        starts = range(0, len(self.table), NAMED_TOGETHER)
        return [key for part in read_ahead(name, starts, threads=threads) for key in part]


class PrefixPipeline:
    """Runs images through the blocks of a tower before block `stop`.

    Every pass has the same number of images, padded with black ones: matrix products round alike only at equal sizes,
    and a row must not depend on which other images were missing in a cache.

    Args:
        tower: The frozen image tower.
        stop: First block not to run; the number of blocks for final features.
        precision: Storage precision of the rows.
        threads: Threads that read and resize; their number does not change the result.
        stopwatch: Counts 'decode', the time waiting for pixels, and 'prefix', the time computing.
    """

    def __init__(
        self, tower: ImageTower, stop: int, precision: StoredPrecision, threads: int, stopwatch: Stopwatch
    ) -> None:
        self._tower = tower
        self._stop = stop
        self._precision = precision
        self._threads = threads
        self._stopwatch = stopwatch
        together = min(tower.images_per_pass, MOST_TOGETHER)
        self._chunk = min(together, LOADED_TOGETHER)
        self._chunks = together // self._chunk

    def run(self, load: Callable[[bytes], Tensor], keys: Iterable[bytes]) -> Iterator[tuple[list[bytes], Packed]]:
        """Keys in order, pass by pass, each with its rows on the CPU.

        Args:
            load: Returns the pixels of a key; called in threads.
            keys: The rows to compute; consumed slightly ahead.

        Raises:
            DataError: An image cannot be read.
            ModelError: An activation is too large for its precision.
        """

        def load_chunk(chunk: list[bytes]) -> tuple[list[bytes], Tensor]:
            pixels = torch.stack([load(key) for key in chunk])
            return chunk, pixels.pin_memory() if self._tower.device.type == "cuda" else pixels

        upcoming = iter(keys)
        chunks = iter(lambda: list(islice(upcoming, self._chunk)), [])
        loaded = read_ahead(load_chunk, chunks, threads=self._threads, ahead=self._chunks + 1)
        while True:
            with self._stopwatch.measure("decode"):
                parts = list(islice(loaded, self._chunks))
            if not parts:
                return
            with self._stopwatch.measure("prefix"):
                rows = self._pass([pixels for _, pixels in parts])
            yield [key for chunk, _ in parts for key in chunk], rows

    def _pass(self, parts: list[Tensor]) -> Packed:
        """One pass from the pixels of images to their rows."""
        together = self._chunk * self._chunks
        pixels = torch.zeros(together, *parts[0].shape[1:], dtype=parts[0].dtype, device=self._tower.device)
        # All chunks but the last are full.
        for target, part in zip(torch.split(pixels, self._chunk), parts, strict=False):
            target[: len(part)].copy_(part, non_blocking=True)
        hidden = self._tower.prefix(self._tower.preprocessing.finish(pixels), self._stop)
        return pack(hidden[: sum(map(len, parts))], self._precision).to("cpu")
