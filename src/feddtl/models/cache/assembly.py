"""Rows on their way to their places: in memory up to a budget, beyond it on disk, beyond that computed anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from feddtl.models.activations import Activations, HeldRows, JoinedRows, RecomputedRows, RowSource
from feddtl.models.cache.namespace import Place
from feddtl.models.cache.packed import Packed, RowLayout
from feddtl.models.cache.segments import DamagedSegmentError, Segment, SegmentRows

# Threads that read from the disk at once.
READERS = 4


class Assembly:
    """Where each of some rows is, while they are being found and computed.

    Args:
        layout: Of the rows.
        count: Rows in all.
        budget: Bytes that they may take in memory; the first rows are held there.
    """

    def __init__(self, layout: RowLayout, count: int, budget: int) -> None:
        self.held = min(count, budget // max(1, layout.nbytes))
        self._memory = layout.empty(self.held)
        self._in_memory = torch.zeros(self.held, dtype=torch.bool)
        self._on_disk: dict[int, Place] = {}
        self._count = count

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._memory.nbytes

    def missing(self) -> list[int]:
        """Rows that are nowhere yet."""
        return [row for row in range(self._count) if not self.has(row)]

    def has(self, row: int) -> bool:
        """Whether a row has its place."""
        return bool(self._in_memory[row]) if row < self.held else row in self._on_disk

    def hold(self, rows: Sequence[int], packed: Packed) -> None:
        """Keep those of these rows that belong into memory."""
        inside = [at for at, row in enumerate(rows) if row < self.held]
        if inside:
            target = torch.tensor([rows[at] for at in inside])
            self._memory.put(target, packed.pick(torch.tensor(inside)))
            self._in_memory[target] = True

    def stored(self, rows: Iterable[int], segment: Segment) -> None:
        """These rows are the rows of a segment, in its order."""
        for at, row in enumerate(rows):
            if row >= self.held:
                self._on_disk[row] = (segment, at)

    def take(self, places: Mapping[int, Place], damaged: Callable[[Segment, Exception], None]) -> None:
        """Take rows from the cache: read those that belong into memory, remember where the others are.

        Args:
            places: By row.
            damaged: Told of segments that turn out not to hold what was written; their rows stay missing.
        """
        by_segment: dict[Segment, list[int]] = {}
        for row, (segment, _) in places.items():
            by_segment.setdefault(segment, []).append(row)

        def read(item: tuple[Segment, list[int]]) -> DamagedSegmentError | None:
            segment, rows = item
            inside = np.array(sorted(row for row in rows if row < self.held), np.int64)
            try:
                segment.read_checked(np.array([places[row][1] for row in inside], np.int64), self._memory, inside)
            except DamagedSegmentError as error:
                return error
            return None

        with ThreadPoolExecutor(READERS) as pool:
            results = zip(by_segment.items(), pool.map(read, by_segment.items()), strict=True)
            for (segment, rows), error in results:
                if error is not None:
                    damaged(segment, error)
                    continue
                self._in_memory[torch.tensor([row for row in rows if row < self.held], dtype=torch.long)] = True
                self._on_disk |= {row: places[row] for row in rows if row >= self.held}

    def finish(self, compute: Callable[[Tensor], Tensor], index: Tensor) -> Activations:
        """The rows, wherever they are.

        Args:
            compute: Row numbers (B,) to rows, for those that are nowhere.
            index: (N,) the row of each image.
        """
        on_disk = sorted(self._on_disk)
        nowhere = torch.tensor(self.missing(), dtype=torch.long)
        sources: list[RowSource] = [HeldRows(self._memory)]
        if on_disk:
            sources.append(SegmentRows([self._on_disk[row] for row in on_disk]))
        if len(nowhere):
            sources.append(RecomputedRows(len(nowhere), lambda positions: compute(nowhere[positions])))
        used = [source for source in sources if len(source)] or sources
        order = torch.cat([torch.arange(self.held), torch.tensor(on_disk, dtype=torch.long), nowhere])
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        return Activations(used[0] if len(used) == 1 else JoinedRows(used), place[index])
