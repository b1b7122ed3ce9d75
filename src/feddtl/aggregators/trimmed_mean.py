"""Coordinate-wise trimmed mean (Yin et al., ICML 2018): clients count alike, whatever their number of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from feddtl.aggregators.base import Aggregator
from feddtl.messages import Update
from feddtl.models.lora import Tensors


class TrimmedMean(Aggregator):
    """Drops the ⌊β·K⌋ smallest and as many largest values of every coordinate and averages the rest.

    β is `server.trim_share`; below 1/2 it leaves a client or more.
    """

    def combine(self, updates: Sequence[Update]) -> Tensors:
        """See `Aggregator.combine`."""
        # Rounded first: 0.29 · 100 is 28.999999999999996 in binary floating point.
        trimmed = int(round(self.config.trim_share * len(updates), 9))
        combined = {}
        for name, first in updates[0].weights.items():
            ordered = torch.stack([update.weights[name].double() for update in updates]).sort(dim=0).values
            combined[name] = ordered[trimmed : len(updates) - trimmed].mean(dim=0).to(first.dtype)
        return combined
