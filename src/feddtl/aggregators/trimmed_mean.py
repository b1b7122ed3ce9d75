"""Coordinate-wise trimmed mean (Yin et al., ICML 2018): clients count alike, whatever their number of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from feddtl.aggregators.base import TensorAggregator


class TrimmedMean(TensorAggregator):
    """Drops the ⌊β·K⌋ smallest and as many largest values of every coordinate and averages the rest.

    β is `server.trim_share`; below 1/2 it leaves a client or more.
    """

    def combine_tensor(self, tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        """The trimmed mean over clients."""
        trimmed = self.config.trimmed(len(tensors))
        ordered = torch.stack(list(tensors)).sort(dim=0).values
        return ordered[trimmed : len(tensors) - trimmed].mean(dim=0)
