"""One frozen transformer block as plain tensors, laid out for speed and equal to transformers' own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, silu

# quick_gelu(x) = x · sigmoid(1.702 x) = silu(1.702 x) / 1.702: with the factor moved into the adjacent frozen weights,
# three passes over the widest tensor become one.
QUICK_GELU_FACTOR = 1.702
# Bytes; torch's own allocations begin at a multiple of it.
ALIGNMENT = 64


@dataclass(frozen=True)
class Linear:
    """y = W x + b with W of shape (out, in)."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight, self.bias)

    def times(self, weight: float, bias: float) -> Linear:
        """The layer with its weight and its bias multiplied."""
        return Linear(self.weight * weight, None if self.bias is None else self.bias * bias)


@dataclass(frozen=True)
class Norm:
    """Layer normalisation over the last dimension."""

    weight: Tensor
    bias: Tensor
    epsilon: float

    def __call__(self, inputs: Tensor) -> Tensor:
        return layer_norm(inputs, self.weight.shape, self.weight, self.bias, self.epsilon)


@dataclass(frozen=True)
class FrozenBlock:
    """Weights of one block.

    Attributes:
        norm1: Before attention.
        query_key_value: The three projections as one, (3d, d).
        out: Projection after attention.
        norm2: Before the MLP.
        fc1: First MLP layer, with its output multiplied by `gain`.
        fc2: Second MLP layer, for inputs multiplied by `gain`.
        activation: Between them; may overwrite its input if gradients are disabled.
        gain: 1.702 if `activation` is silu instead of quick_gelu, otherwise 1.
    """

    norm1: Norm
    query_key_value: Linear
    out: Linear
    norm2: Norm
    fc1: Linear
    fc2: Linear
    activation: Callable[[Tensor], Tensor]
    gain: float

    @property
    def width(self) -> int:
        """d."""
        return self.norm1.weight.shape[0]

    def projection(self, which: int) -> Linear:
        """Query (0), key (1) or value (2) projection, (d, d)."""
        part = slice(which * self.width, (which + 1) * self.width)
        bias = self.query_key_value.bias
        return Linear(self.query_key_value.weight[part], None if bias is None else bias[part])


def aligned(matrix: Tensor) -> Tensor:
    """The matrix at an aligned address, like torch's own; one that is mapped from a file may begin anywhere.

    Libraries may round products of unaligned matrices differently.
    """
    return matrix if matrix.data_ptr() % ALIGNMENT == 0 else matrix.clone()


@torch.no_grad()
def freeze(block: Any, precision: torch.dtype | None) -> FrozenBlock:
    """Copy of an encoder layer of transformers, in a precision (None: its own).

    Its submodules have the names of a CLIPEncoderLayer, as in SigLIP, CLAP and others.
    """

    def cast(layer: Any) -> Linear:
        bias = None if layer.bias is None else layer.bias.detach().to(precision or layer.bias.dtype)
        return Linear(aligned(layer.weight.detach().to(precision or layer.weight.dtype)), bias)

    def norm(layer: Any) -> Norm:
        dtype = precision or layer.weight.dtype
        return Norm(layer.weight.detach().to(dtype), layer.bias.detach().to(dtype), float(layer.eps))

    attention, mlp = block.self_attn, block.mlp
    parts = [cast(layer) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
    biases = [part.bias for part in parts if part.bias is not None]
    folded = type(mlp.activation_fn).__name__ == "QuickGELUActivation"
    gain = QUICK_GELU_FACTOR if folded else 1.0
    return FrozenBlock(
        norm1=norm(block.layer_norm1),
        query_key_value=Linear(torch.cat([part.weight for part in parts]), torch.cat(biases) if biases else None),
        out=cast(attention.out_proj),
        norm2=norm(block.layer_norm2),
        fc1=cast(mlp.fc1).times(gain, gain) if folded else cast(mlp.fc1),
        fc2=cast(mlp.fc2).times(1 / gain, 1.0) if folded else cast(mlp.fc2),
        activation=_silu if folded else mlp.activation_fn,
        gain=gain,
    )


def _silu(inputs: Tensor) -> Tensor:
    return silu(inputs, inplace=not torch.is_grad_enabled())
