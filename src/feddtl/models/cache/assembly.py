"""Collects the activations of one table: in memory up to a budget, then on disk, and otherwise computed at each use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from feddtl.models.activations import Activations, JoinedRows, MemoryRows, RecomputedRows, RowSource
from feddtl.models.cache.namespace import Location
from feddtl.models.cache.packed import Packed, RowLayout
from feddtl.models.cache.segments import DamagedSegmentError, Segment, SegmentRows

# Threads that read from the disk at once.
READERS = 4


class Assembly:
    """Where each distinct row of a table is while rows are found and computed.

    Args:
        load: Position of an image to its pixels.
        names: Of N images; images of the same name are one row.
        layout: Of the rows.
        budget: Bytes of memory for the rows; the first rows are kept there.
        progress: Called with the number of finished images and N.

    Attributes:
        keys: Name of each row.
        in_memory: Number of rows that are kept in memory.
    """

    def __init__(
        self,
        load: Callable[[int], Tensor],
        names: Sequence[bytes],
        layout: RowLayout,
        budget: int,
        progress: Callable[[int, int], None],
    ) -> None:
        self._load = load
        self._positions = {name: position for position, name in enumerate(names)}
        self.keys = list(self._positions)
        rows = {name: row for row, name in enumerate(self.keys)}
        self._index = torch.tensor([rows[name] for name in names], dtype=torch.long)
        self.in_memory = min(len(self.keys), budget // max(1, layout.nbytes))
        self._memory = layout.empty(self.in_memory)
        self._filled = torch.zeros(self.in_memory, dtype=torch.bool)
        self._on_disk: dict[int, Location] = {}
        self._given_up: set[int] = set()
        self._unreported = self._index.bincount(minlength=len(self.keys))
        self._progress = progress

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._memory.nbytes

    def load(self, row: int) -> Tensor:
        """Pixels of a row. Raises DataError."""
        return self._load(self._positions[self.keys[row]])

    def has(self, row: int) -> bool:
        """Whether a row is in memory or on disk, as it should be."""
        return bool(self._filled[row]) if row < self.in_memory else row in self._on_disk

    def missing(self) -> list[int]:
        """Rows that are yet to be found or computed."""
        return [row for row in range(len(self.keys)) if not self.has(row) and row not in self._given_up]

    def give_up(self, rows: Sequence[int]) -> None:
        """Compute these rows at each use."""
        self._given_up.update(rows)
        self.report(rows)

    def report(self, rows: Sequence[int]) -> None:
        """Report the images of these rows as finished, each once."""
        if len(rows):
            self._unreported[torch.tensor(rows)] = 0
            total = len(self._index)
            self._progress(total - int(self._unreported.sum()), total)

    def add(self, rows: Sequence[int], packed: Packed) -> None:
        """Copy those of these rows that belong into memory."""
        inside = [number for number, row in enumerate(rows) if row < self.in_memory]
        if inside:
            targets = torch.tensor([rows[number] for number in inside])
            self._memory.put(targets, packed.pick(torch.tensor(inside)))
            self._filled[targets] = True

    def stored(self, rows: Iterable[int], segment: Segment) -> None:
        """Note that these rows are the rows of a segment, in its order."""
        self._on_disk |= {row: (segment, number) for number, row in enumerate(rows) if row >= self.in_memory}

    def take(self, found: Mapping[int, Location], damaged: Callable[[Segment, Exception], None]) -> None:
        """Read the rows that belong into memory from the cache, and note where the others are.

        Args:
            found: Locations by row.
            damaged: Called for each segment whose content has changed; its rows stay missing.
        """
        by_segment: dict[Segment, list[int]] = {}
        for row, (segment, _) in found.items():
            by_segment.setdefault(segment, []).append(row)

        def read(segment: Segment) -> DamagedSegmentError | None:
            targets = np.array(sorted(row for row in by_segment[segment] if row < self.in_memory), np.int64)
            try:
                segment.read_checked(np.array([found[row][1] for row in targets], np.int64), self._memory, targets)
            except DamagedSegmentError as error:
                return error
            return None

        with ThreadPoolExecutor(READERS) as pool:
            for (segment, rows), error in zip(by_segment.items(), pool.map(read, by_segment), strict=True):
                if error is not None:
                    damaged(segment, error)
                    continue
                self._filled[torch.tensor([row for row in rows if row < self.in_memory], dtype=torch.long)] = True
                self._on_disk |= {row: found[row] for row in rows if row >= self.in_memory}

    def finish(self, compute: Callable[[list[int]], Tensor]) -> Activations:
        """The rows of all images, wherever they are. `compute` gives rows that were given up."""
        on_disk, given_up = sorted(self._on_disk), sorted(self._given_up)
        sources: list[RowSource] = [MemoryRows(self._memory)]
        if on_disk:
            sources.append(SegmentRows([self._on_disk[row] for row in on_disk]))
        if given_up:
            sources.append(
                RecomputedRows(len(given_up), lambda indices: compute([given_up[i] for i in indices.tolist()]))
            )
        used = [source for source in sources if len(source)] or sources
        order = torch.tensor([*range(self.in_memory), *on_disk, *given_up], dtype=torch.long)
        source_index = torch.empty_like(order)
        source_index[order] = torch.arange(len(order))
        return Activations(used[0] if len(used) == 1 else JoinedRows(used), source_index[self._index])
