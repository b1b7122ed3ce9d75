"""Sample-weighted mean, w ← Σ_k N_k/N · w_k (McMahan et al., AISTATS 2017); LoRA factors A and B each by itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from feddtl.aggregators.base import TensorAggregator, sample_shares
from feddtl.messages import Update


class Mean(TensorAggregator):
    """The mean of every coordinate, weighted by the clients' images."""

    def shares(self, updates: Sequence[Update]) -> list[float]:
        """N_k / N."""
        return sample_shares(updates)

    def combine_tensor(self, tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        """Σ_k N_k/N · w_k, of these shares."""
        terms = (share * tensor for share, tensor in zip(shares, tensors, strict=True))
        return sum(terms, start=torch.zeros_like(tensors[0]))
