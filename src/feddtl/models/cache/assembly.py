"""Collects the activations of one table: in memory up to a budget, then on disk, and otherwise computed at each use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from feddtl.models.activations import Activations, JoinedRows, RecomputedRows, RowSource
from feddtl.models.cache.namespace import Location
from feddtl.models.cache.packed import Packed, RowLayout
from feddtl.models.cache.segments import DamagedSegmentError, Segment, SegmentRows

# Threads that read from the disk at once.
READERS = 4


class Assembly:
    """Where the row of each key is while rows are found and computed.

    Args:
        load: Position of an image to its pixels.
        keys: Of N images; images with the same key share a row.
        layout: Of the rows.
        budget: Bytes of memory for the rows; the first rows are kept there.
        progress: Called with the number of finished images and N.
    """

    def __init__(
        self,
        load: Callable[[int], Tensor],
        keys: Sequence[bytes],
        layout: RowLayout,
        budget: int,
        progress: Callable[[int, int], None],
    ) -> None:
        self._load = load
        self._positions = {key: position for position, key in enumerate(keys)}
        self._rows = {key: row for row, key in enumerate(self._positions)}
        self._index = torch.tensor([self._rows[key] for key in keys], dtype=torch.long)
        self._in_memory = min(len(self._rows), budget // max(1, layout.nbytes))
        self._memory = layout.empty(self._in_memory)
        # None: in memory.
        self._found: dict[int, Location | None] = {}
        self._given_up: dict[int, bytes] = {}
        self._unreported = self._index.bincount(minlength=len(self._rows))
        self._progress = progress

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._memory.nbytes

    def load(self, key: bytes) -> Tensor:
        """Pixels of an image with this key. Raises DataError."""
        return self._load(self._positions[key])

    def fits_in_memory(self, key: bytes) -> bool:
        """Whether its row is kept in memory, once it is found."""
        return self._rows[key] < self._in_memory

    def has(self, key: bytes) -> bool:
        """Whether its row is in memory or, if it does not fit, on disk."""
        return self._rows[key] in self._found

    def missing(self) -> list[bytes]:
        """Keys of rows that are yet to be found or computed."""
        return [key for key, row in self._rows.items() if row not in self._found and row not in self._given_up]

    def give_up(self, keys: Collection[bytes]) -> None:
        """Compute these rows at each use."""
        self._given_up |= {self._rows[key]: key for key in keys}
        self.report(keys)

    def report(self, keys: Collection[bytes]) -> None:
        """Report the images with these keys as finished, each once."""
        if keys:
            self._unreported[[self._rows[key] for key in keys]] = 0
            total = len(self._index)
            self._progress(total - int(self._unreported.sum()), total)

    def add(self, keys: Sequence[bytes], packed: Packed) -> None:
        """Copy the rows that fit into memory."""
        inside = [number for number, key in enumerate(keys) if self.fits_in_memory(key)]
        if inside:
            rows = [self._rows[keys[number]] for number in inside]
            self._memory.put(torch.tensor(rows), packed.pick(torch.tensor(inside)))
            self._found |= dict.fromkeys(rows)

    def stored(self, segment: Segment) -> None:
        """Read the rows that do not fit into memory from this segment from now on."""
        beyond = {key: number for number, key in enumerate(segment.keys) if not self.fits_in_memory(key)}
        self._found |= {self._rows[key]: (segment, number) for key, number in beyond.items()}

    def take(self, found: Mapping[bytes, Location], damaged: Callable[[Segment, Exception], None]) -> None:
        """Read the rows that fit into memory from the cache, and note where the others are.

        Args:
            found: Locations by key.
            damaged: Called for each segment whose content has changed; its rows stay missing.
        """
        by_segment: dict[Segment, dict[int, int]] = {}
        for key, (segment, number) in found.items():
            by_segment.setdefault(segment, {})[self._rows[key]] = number

        def read(segment: Segment) -> DamagedSegmentError | None:
            numbers = by_segment[segment]
            targets = np.array(sorted(row for row in numbers if row < self._in_memory), np.int64)
            try:
                segment.read_checked(np.array([numbers[row] for row in targets], np.int64), self._memory, targets)
            except DamagedSegmentError as error:
                return error
            return None

        with ThreadPoolExecutor(READERS) as pool:
            for (segment, numbers), error in zip(by_segment.items(), pool.map(read, by_segment), strict=True):
                if error is not None:
                    damaged(segment, error)
                    continue
                for row, number in numbers.items():
                    self._found[row] = None if row < self._in_memory else (segment, number)

    def finish(self, compute: Callable[[list[bytes]], Tensor]) -> Activations:
        """The rows of all images, wherever they are. `compute` gives rows that were given up."""
        on_disk = {row: location for row, location in sorted(self._found.items()) if location is not None}
        recomputed = list(self._given_up.values())
        sources: list[RowSource] = [self._memory]
        if on_disk:
            sources.append(SegmentRows(list(on_disk.values())))
        if recomputed:
            sources.append(RecomputedRows(len(recomputed), lambda at: compute([recomputed[i] for i in at.tolist()])))
        used = [source for source in sources if len(source)] or sources
        order = torch.tensor([*range(self._in_memory), *on_disk, *self._given_up], dtype=torch.long)
        index = torch.empty_like(order)
        index[order] = torch.arange(len(order))
        return Activations(used[0] if len(used) == 1 else JoinedRows(used), index[self._index])
