"""What the frozen blocks gave for each image, wherever it is kept: in memory, on disk, or computed anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from feddtl.models.cache.packed import Packed

# Of a device's free memory, for all tables; the rest is for training.
DEVICE_SHARE = 0.5


class RowSource(Protocol):
    """Rows that can be asked for by position."""

    def __len__(self) -> int: ...

    def gather(self, positions: Tensor) -> Tensor:
        """Rows at positions (B,), in this order: (B, ...) floats."""
        ...


@dataclass(frozen=True)
class HeldRows:
    """Rows in the memory of a device."""

    packed: Packed

    def __len__(self) -> int:
        return len(self.packed)

    def gather(self, positions: Tensor) -> Tensor:
        """Rows at positions (B,), on the device that holds them."""
        return self.packed.pick(positions.to(self.packed.values.device, non_blocking=True)).floats()


@dataclass(frozen=True)
class RecomputedRows:
    """Rows that are computed whenever they are asked for.

    Attributes:
        count: Rows in all.
        compute: Positions (B,) to rows (B, ...).
    """

    count: int
    compute: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return self.count

    def gather(self, positions: Tensor) -> Tensor:
        """Rows at positions (B,), computed now."""
        return self.compute(positions)


class JoinedRows:
    """The rows of several sources, one after another."""

    def __init__(self, sources: Sequence[RowSource]) -> None:
        self.sources = tuple(sources)
        self._ends = torch.tensor([len(source) for source in sources]).cumsum(0)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def gather(self, positions: Tensor) -> Tensor:
        """Rows at positions (B,); each source is asked once."""
        owners = torch.searchsorted(self._ends, positions, right=True)
        asked: list[int] = sorted(set(owners.tolist())) or [0]
        if len(asked) == 1:
            return self._from(asked[0], positions)
        result: Tensor | None = None
        for owner in asked:
            places = (owners == owner).nonzero().flatten()
            rows = self._from(owner, positions[places])
            result = rows.new_empty(len(positions), *rows.shape[1:]) if result is None else result
            # Sources may lie on several devices.
            result[places.to(result.device)] = rows.to(result.device)
        assert result is not None
        return result

    def _from(self, owner: int, positions: Tensor) -> Tensor:
        source = self.sources[owner]
        return source.gather(positions - (int(self._ends[owner]) - len(source)))


class Activations:
    """An ordered choice of rows of a source; choosing copies no row.

    Args:
        source: Where the rows are.
        index: (N,) position in the source of each row; None: all rows as they come.
    """

    def __init__(self, source: RowSource, index: Tensor | None = None) -> None:
        self._source = source
        self._index = torch.arange(len(source)) if index is None else index.cpu()

    @staticmethod
    def of(rows: Tensor) -> Activations:
        """Rows (N, ...) that are in memory."""
        return Activations(HeldRows(Packed(rows)))

    def __len__(self) -> int:
        return len(self._index)

    def rows(self, positions: Tensor) -> Tensor:
        """Rows at positions (B,): (B, S, d) activations or (B, e) final features.

        They come in the float precision they are kept in (float32 for int8), on the device that holds them.

        Raises:
            RunError: They are on disk and can no longer be read.
            DataError: They are computed anew and an image can no longer be read.
        """
        return self._source.gather(self._index[positions.cpu()])

    def all(self) -> Tensor:
        """All rows."""
        return self._source.gather(self._index)

    def select(self, positions: Tensor) -> Activations:
        """The rows at these positions, in this order, without copying them."""
        return Activations(self._source, self._index[positions.cpu()])


class DeviceMemory:
    """What of a GPU's memory is for activations: a share of what was free at first, for all tables together.

    Args:
        device: The GPU, or another device, which is given none.
        free: Its free bytes; None: asked for where it is a GPU.
    """

    def __init__(self, device: torch.device, free: int | None = None) -> None:
        if free is None:
            free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
        self._device = device
        self._left = int(DEVICE_SHARE * free)

    def hold(self, activations: Activations) -> Activations:
        """The same activations; rows in the computer's memory are copied to the device as far as there is room.

        Rows that come from a disk, or are computed anew, stay what they are and hold up no others.
        """
        source = self._copied(activations._source)
        return activations if source is activations._source else Activations(source, activations._index)

    def _copied(self, source: RowSource) -> RowSource:
        if isinstance(source, JoinedRows):
            copies = [self._copied(part) for part in source.sources]
            changed = any(copy is not part for copy, part in zip(copies, source.sources, strict=True))
            return JoinedRows(copies) if changed else source
        if not isinstance(source, HeldRows) or source.packed.values.device == self._device:
            return source
        if not 0 < source.packed.nbytes <= self._left:
            return source
        self._left -= source.packed.nbytes
        return HeldRows(source.packed.to(self._device))


def joined(parts: Sequence[Activations]) -> Activations:
    """The rows of all parts, one after another, without copying them; parts may be empty."""
    filled = [part for part in parts if len(part)]
    if len(filled) <= 1:
        return (filled or list(parts) or [Activations.of(torch.empty(0, 0))])[0]
    sources = list({id(part._source): part._source for part in filled}.values())
    starts = dict(zip(map(id, sources), [0, *_ends(sources)], strict=False))
    index = torch.cat([part._index + starts[id(part._source)] for part in filled])
    return Activations(sources[0] if len(sources) == 1 else JoinedRows(sources), index)


def _ends(sources: Sequence[RowSource]) -> list[int]:
    ends: list[int] = torch.tensor([len(source) for source in sources]).cumsum(0).tolist()
    return ends
