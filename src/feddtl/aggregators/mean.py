"""Sample-weighted mean, w ← Σ_k N_k/N · w_k (McMahan et al., AISTATS 2017); LoRA factors A and B each by itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from feddtl.aggregators.base import Aggregator, sample_shares
from feddtl.messages import Update
from feddtl.models.lora import Tensors


class Mean(Aggregator):
    """Each tensor averaged over the updates, accumulated in float64."""

    def combine(self, updates: Sequence[Update]) -> Tensors:
        """See `Aggregator.combine`."""
        shares = sample_shares(updates)
        return {
            name: sum(
                (share * update.weights[name].double() for share, update in zip(shares, updates, strict=True)),
                start=torch.zeros_like(first, dtype=torch.float64),
            ).to(first.dtype)
            for name, first in updates[0].weights.items()
        }
