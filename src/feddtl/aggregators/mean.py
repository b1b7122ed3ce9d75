"""Sample-weighted averaging of what clients send: w ← Σ_k N_k/N · w_k (McMahan et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from feddtl.messages import Update
from feddtl.models.lora import Tensors, mix, truncate
from feddtl.tensor_groups import update_norm


def sample_shares(updates: Sequence[Update]) -> list[float]:
    """N_k / N for each update."""
    total = sum(update.num_images for update in updates)
    return [update.num_images / total for update in updates]


def average_tensors(updates: Sequence[Update]) -> Tensors:
    """Each named tensor averaged over the updates, accumulated in float64; new tensors, never aliases."""
    shares = sample_shares(updates)
    return {
        name: sum(
            (share * update.weights[name].double() for share, update in zip(shares, updates, strict=True)),
            start=torch.zeros_like(first, dtype=torch.float64),
        ).to(first.dtype)
        for name, first in updates[0].weights.items()
    }


def average_lora(updates: Sequence[Update], rank: int, how: Literal["factors", "product"]) -> Tensors:
    """Averaged LoRA factors.

    'factors' averages A and B each; 'product' averages B·A and truncates to the rank by SVD, which has no
    cross terms between clients (FedDTL §3 leaves it open).
    """
    if how == "factors":
        return average_tensors(updates)
    return truncate(mix([update.weights for update in updates], sample_shares(updates)), rank)


def client_drift(updates: Sequence[Update]) -> float:
    """Weighted mean over clients of ‖w_k - w̄‖₂: how far the clients are from their average."""
    mean = average_tensors(updates)
    shares = sample_shares(updates)
    return sum(share * update_norm(update.weights, mean) for share, update in zip(shares, updates, strict=True))
