"""What the mean of the LoRA factors leaves out of the mean of their products, by layer, in float64.

Of clients with shares p_k: Σ_k p_k·B_k A_k is the mean of the models, and B̄·Ā with B̄ = Σ_k p_k B_k, Ā = Σ_k p_k A_k is
what averaging factors makes of it. The difference is the residual of FedEx-LoRA (Singhal et al. 2024, arXiv
2410.09432).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from feddtl.models.lora import A_SUFFIX, B_SUFFIX, Tensors, layer_names, mix, truncate

Factors = Mapping[str, Tensor]


def averaging_residual(clients: Sequence[Factors], shares: Sequence[float]) -> Tensors:
    """Factors of rank (K - 1)·r of Σ_k p_k·B_k A_k - B̄·Ā.

    This is Σ_k p_k·(B_k - B̄)(A_k - Ā), and since the p_k·(A_k - Ā) add up to zero, Σ_{k<K} p_k·(B_k - B_K)(A_k - Ā): no
    difference of large products, and a rank less by r.
    """
    residual: Tensors = {}
    for layer in layer_names(clients[0]):
        downs, ups = ([client[layer + suffix].double() for client in clients] for suffix in (A_SUFFIX, B_SUFFIX))
        mean = sum((share * down for share, down in zip(shares, downs, strict=True)), torch.zeros_like(downs[0]))
        rows = [down - mean for down in downs[:-1]]
        columns = [share * (up - ups[-1]) for share, up in zip(shares[:-1], ups[:-1], strict=True)]
        residual[layer + A_SUFFIX] = torch.cat([*rows, mean[:0]])
        residual[layer + B_SUFFIX] = torch.cat([*columns, ups[0][:, :0]], dim=1)
    return residual


def anonymous(factors: Factors) -> Tensors:
    """Factors of the same products that follow from the products alone, by SVD.

    The factors of `averaging_residual` are differences between single clients' factors, which no other client may see.
    """
    most = max(len(factors[layer + A_SUFFIX]) for layer in layer_names(factors))
    return truncate(factors, most)


def product_norm(factors: Factors) -> float:
    """‖B·A‖_F over all layers: tr((BᵀB)(AAᵀ)) of each, without forming the product."""
    total = 0.0
    for layer in layer_names(factors):
        up, down = factors[layer + B_SUFFIX].double(), factors[layer + A_SUFFIX].double()
        # Rounding may leave a tiny negative number where the product is zero.
        total += max(0.0, float(torch.trace((up.T @ up) @ (down @ down.T))))
    return math.sqrt(total)


def averaging_error(clients: Sequence[Factors], shares: Sequence[float]) -> float:
    """‖Σ_k p_k·B_k A_k - B̄·Ā‖_F / ‖Σ_k p_k·B_k A_k‖_F over all layers; 0 where the mean product is zero."""
    exact = [{name: factor.double() for name, factor in client.items()} for client in clients]
    whole = product_norm(mix(exact, shares))
    return product_norm(averaging_residual(exact, shares)) / whole if whole else 0.0
