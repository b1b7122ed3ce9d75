"""Coordinate-wise median (Yin et al., ICML 2018): clients count alike, whatever their number of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from feddtl.aggregators.base import Aggregator
from feddtl.messages import Update
from feddtl.models.lora import Tensors


class Median(Aggregator):
    """The median of every coordinate; with an even number of clients the mean of the two in the middle."""

    def combine(self, updates: Sequence[Update]) -> Tensors:
        """See `Aggregator.combine`."""
        lower, upper = (len(updates) - 1) // 2, len(updates) // 2
        combined = {}
        for name, first in updates[0].weights.items():
            ordered = torch.stack([update.weights[name].double() for update in updates]).sort(dim=0).values
            combined[name] = ((ordered[lower] + ordered[upper]) / 2).to(first.dtype)
        return combined
