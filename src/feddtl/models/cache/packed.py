"""How activations are stored: float32, 16 bit, or int8 with a scale per token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from feddtl.errors import ModelError

StoredPrecision = Literal["float32", "bfloat16", "float16", "int8"]
INT8_LARGEST = 127


@dataclass(frozen=True)
class Packed:
    """N rows as they are stored.

    Attributes:
        values: (N, ..., d).
        scales: (N, ...), for int8: a token's floats are its values times its scale; None for floats.
    """

    values: Tensor
    scales: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(part.nbytes for part in self.parts)

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Values, and scales if there are any."""
        return (self.values,) if self.scales is None else (self.values, self.scales)

    def floats(self) -> Tensor:
        """The rows in their stored float precision; float32 for int8."""
        return self.values if self.scales is None else self.values.float().mul_(self.scales[..., None])

    def gather(self, indices: Tensor) -> Tensor:
        """Floats of the rows at indices (B,), on the device of all rows."""
        return self.pick(indices.to(self.values.device, non_blocking=True)).floats()

    def pick(self, rows: Tensor | slice) -> Packed:
        """Some of the rows; a slice shares memory."""
        return Packed(*(part[rows] for part in self.parts))

    def put(self, rows: Tensor, others: Packed) -> None:
        """Overwrite rows."""
        for part, other in zip(self.parts, others.parts, strict=True):
            part[rows] = other

    def to(self, device: torch.device | str) -> Packed:
        """The rows on a device."""
        return Packed(*(part.to(device) for part in self.parts))


@dataclass(frozen=True)
class RowLayout:
    """Shape and stored precision of one row.

    Attributes:
        shape: (S, d) of activations, (e,) of final features.
        precision: Of its values.
    """

    shape: tuple[int, ...]
    precision: StoredPrecision

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""
        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype

    @property
    def value_bytes(self) -> int:
        """Bytes of a row's values."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def scale_bytes(self) -> int:
        """Bytes of a row's scales."""
        return math.prod(self.shape[:-1]) * torch.float32.itemsize if self.precision == "int8" else 0

    @property
    def nbytes(self) -> int:
        """Bytes of a row."""
        return self.value_bytes + self.scale_bytes

    def empty(self, rows: int) -> Packed:
        """Rows that are not written yet."""
        scales = torch.empty(rows, *self.shape[:-1]) if self.precision == "int8" else None
        return Packed(torch.empty(rows, *self.shape, dtype=self.dtype), scales)


def pack(floats: Tensor, precision: StoredPrecision) -> Packed:
    """Rows (N, ..., d) in the precision in which they are stored.

    int8 rounds to multiples of a token's largest magnitude / 127, so that the error is at most half of that.

    Raises:
        ModelError: A value is not finite, or too large for float16.
    """
    if precision == "int8":
        scales = floats.float().abs().amax(dim=-1).div_(INT8_LARGEST)
        steps = torch.where(scales > 0, scales, 1.0)
        packed = Packed((floats.float() / steps[..., None]).round_().to(torch.int8), scales)
    else:
        packed = Packed(floats.to(getattr(torch, precision)))
    if not packed.parts[-1].isfinite().all():
        _refuse(floats, precision)
    return packed


def concatenated(parts: Sequence[Packed]) -> Packed:
    """The rows of all parts, one after another."""
    return Packed(*map(torch.cat, zip(*(part.parts for part in parts), strict=True)))


def _refuse(floats: Tensor, precision: StoredPrecision) -> None:
    if floats.isfinite().all():
        largest = float(floats.float().abs().max())
        raise ModelError(
            f"An activation of the frozen blocks is {largest:.4g}; the maximum of {precision} is "
            f"{torch.finfo(getattr(torch, precision)).max:.4g}.",
            "Set compute.activations = 'bfloat16' or 'float32'.",
        )
    raise ModelError(
        "The frozen blocks produced a NaN or infinite value.",
        "Check the model's weights, or set compute.precision = 'float32'.",
    )
