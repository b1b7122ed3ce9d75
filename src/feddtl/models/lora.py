"""Low-rank adapters as plain named tensors: W = W_0 + (alpha/rank)·B·A (Hu et al. 2022).

Names are those of layers in the model's state dict with the suffix `.lora_A.weight` or `.lora_B.weight`, as in PEFT's
files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from feddtl.seeding import torch_generator

Tensors = dict[str, Tensor]

A_SUFFIX = ".lora_A.weight"
B_SUFFIX = ".lora_B.weight"


@dataclass(frozen=True)
class LowRank:
    """The output that adapters add to one layer: up · (mask ∘ down · x).

    Attributes:
        down: (R, in).
        up: (out, R), multiplied by alpha/rank.
        mask: (B, R) of 0 and 1: which of the R directions belong to each sequence; None: all of them.
    """

    down: Tensor
    up: Tensor
    mask: Tensor | None = None

    def lower(self, inputs: Tensor) -> Tensor:
        """Masked down · x: (B, ..., in) -> (B, ..., R)."""
        return self.masked(inputs @ self.down.T.to(inputs.dtype))

    def masked(self, low: Tensor) -> Tensor:
        """(B, ..., R) with the directions of other sequences set to zero."""
        if self.mask is None:
            return low
        between = [1] * (low.ndim - 2)
        return low * self.mask.view(len(self.mask), *between, -1).to(low.dtype)

    def beside(self, other: LowRank | None) -> LowRank:
        """This and another one of the same layer, without a mask, as one."""
        if other is None:
            return self
        mask = self.mask
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), len(other.down))], dim=1)
        return LowRank(torch.cat([self.down, other.down]), torch.cat([self.up, other.up], dim=1), mask)

    def add_to(self, output: Tensor, inputs: Tensor, gain: float = 1.0) -> Tensor:
        """output + gain · up · down · x."""
        low = self.lower(inputs)
        up = (gain * self.up.T).to(low.dtype)
        return torch.addmm(output.flatten(0, -2), low.flatten(0, -2), up).view(output.shape)


def stacked(parts: Sequence[LowRank | None], width: int) -> LowRank | None:
    """One LowRank for layers of this output width that share their input and whose outputs are concatenated.

    With down = [down_1; …; down_n] and up = diag(up_1, …, up_n), n small products become one. A layer without an
    adapter gets zeros. None if no layer has one.
    """
    present = [part for part in parts if part is not None]
    if not present:
        return None
    ups = [present[0].up.new_zeros(width, 0) if part is None else part.up for part in parts]
    up: Tensor = torch.block_diag(*ups)  # type: ignore[no-untyped-call]
    masks = [part.mask for part in present if part.mask is not None]
    return LowRank(torch.cat([part.down for part in present]), up, torch.cat(masks, dim=1) if masks else None)


@dataclass(frozen=True)
class Lora:
    """Adapters of one or both towers.

    Attributes:
        factors: `<layer>.lora_A.weight` of shape (r, in) and `<layer>.lora_B.weight` of shape (out, r).
        scaling: alpha / rank.
        residual: Factors of what is added to the frozen weights of adapted layers, named like the others and of any
            rank, times alpha / rank; they are not trained.
    """

    factors: Mapping[str, Tensor]
    scaling: float
    residual: Mapping[str, Tensor] = field(default_factory=dict)

    def low_rank(self, layer: str) -> LowRank | None:
        """The change of one layer, residual included; None if it has no adapter."""
        own = self.adapter_of(layer)
        return None if own is None else own.beside(self.residual_of(layer))

    def adapter_of(self, layer: str) -> LowRank | None:
        """The adapter of one layer; None if it has none."""
        return self._of(self.factors, layer)

    def residual_of(self, layer: str) -> LowRank | None:
        """The residual of one layer; None if it has none."""
        return self._of(self.residual, layer)

    def _of(self, factors: Mapping[str, Tensor], layer: str) -> LowRank | None:
        if layer + A_SUFFIX not in factors:
            return None
        return LowRank(factors[layer + A_SUFFIX], self.scaling * factors[layer + B_SUFFIX])


@dataclass(frozen=True)
class LoraGroup:
    """Adapters of several clients in one batch; each sequence is changed only by its owner's.

    The factors are concatenated, [B_1 … B_K] · diag(mask) · [A_1; …; A_K], so that K small products become one, and the
    frozen product is computed once for all.

    Attributes:
        members: One adapter per client, all of the same layers and rank, and with the same residual.
        owners: (B,) member of each sequence.
    """

    members: Sequence[Lora]
    owners: Tensor

    def low_rank(self, layer: str) -> LowRank | None:
        """The adapters of one layer; None if it has none."""
        parts = [part for member in self.members if (part := member.adapter_of(layer)) is not None]
        if not parts:
            return None
        rank = parts[0].down.shape[0]
        chosen = one_hot(self.owners, len(parts)).repeat_interleave(rank, dim=1)
        down, up = torch.cat([part.down for part in parts]), torch.cat([part.up for part in parts], dim=1)
        return LowRank(down, up, chosen).beside(self.members[0].residual_of(layer))


def grouped(members: Sequence[Lora], owners: Tensor) -> Lora | LoraGroup:
    """The adapter of a batch whose sequences belong to several members; a single member needs no mask."""
    return members[0] if len(members) == 1 else LoraGroup(members, owners)


def init_factors(shapes: Mapping[str, tuple[int, int]], rank: int, seed: int) -> Tensors:
    """New factors for layers of shape (out, in): A Kaiming-uniform with a = √5, B zero.

    Kaiming-uniform with a = √5 and fan-in n is U(-1/√n, 1/√n).
    """
    factors: Tensors = {}
    for name, (outputs, inputs) in sorted(shapes.items()):
        uniform = torch.rand(rank, inputs, generator=torch_generator(seed, f"lora/{name}"))
        factors[name + A_SUFFIX] = (2 * uniform - 1) / math.sqrt(inputs)
        factors[name + B_SUFFIX] = torch.zeros(outputs, rank)
    return factors


def layer_names(factors: Mapping[str, Tensor]) -> list[str]:
    """The adapted layers, sorted by their names in the model, whatever group is in front of them."""
    layers = [name.removesuffix(A_SUFFIX) for name in factors if name.endswith(A_SUFFIX)]
    return sorted(layers, key=lambda layer: layer.rpartition("/")[2])


def mix(parts: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> Tensors:
    """Factors whose product is exactly Σ_i w_i · B_i A_i = [w_1 B_1 … w_n B_n] · [A_1; …; A_n]; the ranks add up."""
    mixed: Tensors = {}
    for layer in layer_names(parts[0]):
        weighted = [weight * part[layer + B_SUFFIX] for part, weight in zip(parts, weights, strict=True)]
        mixed[layer + A_SUFFIX] = torch.cat([part[layer + A_SUFFIX] for part in parts], dim=0)
        mixed[layer + B_SUFFIX] = torch.cat(weighted, dim=1)
    return mixed


def truncate(factors: Mapping[str, Tensor], rank: int) -> Tensors:
    """Best rank-r factors of B·A in the Frobenius norm, by SVD of the small core (Eckart-Young).

    With B = Q_B R_B and Aᵀ = Q_A R_A, B·A = Q_B (R_B R_Aᵀ) Q_Aᵀ, so the SVD is of a square of at most the
    summed rank. The singular values are split evenly between both factors.
    """
    result: Tensors = {}
    for layer in layer_names(factors):
        q_b, r_b = torch.linalg.qr(factors[layer + B_SUFFIX])
        q_a, r_a = torch.linalg.qr(factors[layer + A_SUFFIX].T)
        u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
        root = s[:rank].sqrt()
        result[layer + A_SUFFIX] = root[:, None] * (vh[:rank] @ q_a.T)
        result[layer + B_SUFFIX] = (q_b @ u[:, :rank]) * root
    return result
