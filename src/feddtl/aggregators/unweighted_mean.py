"""Plain mean, w ← Σ_k w_k / K: clients count alike, whatever their number of images (FedCLIP)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from feddtl.aggregators.base import TensorAggregator


class UnweightedMean(TensorAggregator):
    """The mean of every coordinate over clients."""

    def combine_tensor(self, tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        """Σ_k w_k / K."""
        return torch.stack(list(tensors)).mean(dim=0)
