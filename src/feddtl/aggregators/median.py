"""Coordinate-wise median (Yin et al., ICML 2018): clients count alike, whatever their number of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from feddtl.aggregators.base import TensorAggregator


class Median(TensorAggregator):
    """The median of every coordinate; with an even number of clients the mean of the two in the middle."""

    def combine_tensor(self, tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        """The median over clients."""
        ordered = torch.stack(list(tensors)).sort(dim=0).values
        return (ordered[(len(tensors) - 1) // 2] + ordered[len(tensors) // 2]) / 2
