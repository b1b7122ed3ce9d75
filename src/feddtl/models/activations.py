"""Activations of the frozen blocks by image, in memory, on disk, or computed at each use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from feddtl.models.cache.packed import Packed

# Of a device's free memory, for all tables; the rest is for training.
DEVICE_SHARE = 0.5


class RowSource(Protocol):
    """Rows that are read by index: in memory (`Packed`), on disk (`SegmentRows`), or one of the sources below."""

    def __len__(self) -> int: ...

    def gather(self, indices: Tensor) -> Tensor:
        """Rows at indices (B,), in this order: (B, ...) floats."""
        ...


@dataclass(frozen=True)
class RecomputedRows:
    """Rows that are computed at each use.

    Attributes:
        count: Number of rows.
        compute: Indices (B,) to rows (B, ...).
    """

    count: int
    compute: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return self.count

    def gather(self, indices: Tensor) -> Tensor:
        """Rows, computed now."""
        return self.compute(indices)


class JoinedRows:
    """The rows of several sources, one after another."""

    def __init__(self, sources: Sequence[RowSource]) -> None:
        self.sources = tuple(sources)
        self._ends = torch.tensor([len(source) for source in sources]).cumsum(0)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def gather(self, indices: Tensor) -> Tensor:
        """Rows, from each source in one call."""
        owners = torch.searchsorted(self._ends, indices, right=True)
        used: list[int] = sorted(set(owners.tolist())) or [0]
        if len(used) == 1:
            return self._from(used[0], indices)
        result: Tensor | None = None
        for owner in used:
            chosen = (owners == owner).nonzero().flatten()
            rows = self._from(owner, indices[chosen])
            result = rows.new_empty(len(indices), *rows.shape[1:]) if result is None else result
            # Sources may be on several devices.
            result[chosen.to(result.device)] = rows.to(result.device)
        assert result is not None
        return result

    def _from(self, owner: int, indices: Tensor) -> Tensor:
        source = self.sources[owner]
        return source.gather(indices - (int(self._ends[owner]) - len(source)))


class Activations:
    """An ordered choice of rows of a source; choosing copies no row.

    Args:
        source: Where the rows are.
        index: (N,) index in the source of each row; None: all rows in their order.
    """

    def __init__(self, source: RowSource, index: Tensor | None = None) -> None:
        self._source = source
        self._index = torch.arange(len(source)) if index is None else index.cpu()

    @staticmethod
    def of(rows: Tensor) -> Activations:
        """Rows (N, ...) that are in memory."""
        return Activations(Packed(rows))

    def __len__(self) -> int:
        return len(self._index)

    def rows(self, indices: Tensor) -> Tensor:
        """Rows at indices (B,): (B, S, d) activations or (B, e) final features.

        They are on the device and in the float precision in which they are stored (float32 for int8).

        Raises:
            RunError: They are on disk and can no longer be read.
            DataError: They are computed at each use and an image can no longer be read.
        """
        return self._source.gather(self._index[indices.cpu()])

    def all(self) -> Tensor:
        """All rows."""
        return self._source.gather(self._index)

    def select(self, indices: Tensor) -> Activations:
        """The rows at these indices, in this order, without copying them."""
        return Activations(self._source, self._index[indices.cpu()])


class DeviceMemory:
    """A GPU's memory for activations: a share of what was free at first, for all tables together.

    Args:
        device: The GPU, or another device, to which nothing is copied.
        free: Its free bytes; None: asked of the GPU.
    """

    def __init__(self, device: torch.device, free: int | None = None) -> None:
        if free is None:
            free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
        self._device = device
        self._left = int(DEVICE_SHARE * free)

    def load(self, activations: Activations) -> Activations:
        """The same activations; rows in the computer's memory are copied to the device while there is room.

        Rows on disk and rows that are computed at each use stay as they are.
        """
        source = self._copied(activations._source)
        return activations if source is activations._source else Activations(source, activations._index)

    def _copied(self, source: RowSource) -> RowSource:
        if isinstance(source, JoinedRows):
            copies = [self._copied(part) for part in source.sources]
            changed = any(copy is not part for copy, part in zip(copies, source.sources, strict=True))
            return JoinedRows(copies) if changed else source
        if not isinstance(source, Packed) or source.values.device == self._device:
            return source
        if not 0 < source.nbytes <= self._left:
            return source
        self._left -= source.nbytes
        return source.to(self._device)


def joined(parts: Sequence[Activations]) -> Activations:
    """The rows of all parts, one after another, without copying them; parts may be empty."""
    filled = [part for part in parts if len(part)]
    if len(filled) <= 1:
        return (filled or list(parts) or [Activations.of(torch.empty(0, 0))])[0]
    sources = list({id(part._source): part._source for part in filled}.values())
    ends = accumulate(map(len, sources), initial=0)
    starts = dict(zip(map(id, sources), ends, strict=False))
    index = torch.cat([part._index + starts[id(part._source)] for part in filled])
    return Activations(sources[0] if len(sources) == 1 else JoinedRows(sources), index)
