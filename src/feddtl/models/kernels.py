"""How blocks are computed: the precision of the frozen arithmetic and the attention kernel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

AttentionKernel = Literal["sdpa", "eager"]
Chosen = Literal["default", "set", "measured", "remembered", "shared"]
CHOSEN: dict[Chosen, str] = {
    "default": "the default where nothing is measured",
    "set": "as set",
    "measured": "measured now",
    "remembered": "measured by an earlier run on this machine",
    "shared": "as in the comparison's first run",
}


@dataclass(frozen=True)
class Kernels:
    """A choice of arithmetic.

    Attributes:
        precision: Of frozen weights and hidden states; None: that of the model's weights, in which adapters, final
            projections and logits are always computed.
        attention: PyTorch's fused kernel ('sdpa'), or plain products ('eager').
        chosen: Why these, a key of `CHOSEN`; two choices of the same arithmetic are equal whatever the reason.
        set_half: 'precision' or 'attention' if only that was set, so that `chosen` is about the other one.
    """

    precision: torch.dtype | None = None
    attention: AttentionKernel = "sdpa"
    chosen: Chosen = field(default="default", compare=False)
    set_half: Literal["", "precision", "attention"] = field(default="", compare=False)


def as_kernels(precision: str, attention: AttentionKernel) -> Kernels:
    """Kernels by the names that configurations use, e.g. 'bfloat16' and 'eager'."""
    return Kernels(getattr(torch, precision), attention)


def names_of(kernels: Kernels) -> dict[str, str]:
    """Inverse of `as_kernels`."""
    return {"precision": str(kernels.precision or torch.float32).removeprefix("torch."), "attention": kernels.attention}


def choice_line(kernels: Kernels, reason: str = "") -> str:
    """The arithmetic and why it was chosen, in a sentence; `reason` replaces the kernels' own."""
    names, why = names_of(kernels), CHOSEN[kernels.chosen]
    if kernels.set_half:
        other = "attention" if kernels.set_half == "precision" else "precision"
        why = f"{kernels.set_half} as set, {other} {why}"
    why = reason or why
    return f"Blocks compute in {names['precision']} with {names['attention']} attention: {why}."


def attend(query: Tensor, key: Tensor, value: Tensor, kernel: AttentionKernel, *, causal: bool) -> Tensor:
    """softmax(q·kᵀ/√d_h)·v for every token: (B, heads, S, d_h) each -> the same shape."""
    if kernel == "sdpa":
        return scaled_dot_product_attention(query, key, value, is_causal=causal)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B, heads, S, S)
    if causal:
        length = scores.shape[-1]
        later = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    attended: Tensor = scores.softmax(dim=-1) @ value
    return attended
