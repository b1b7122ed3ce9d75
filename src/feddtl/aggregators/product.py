"""Mean of the LoRA products B·A, truncated to the rank by SVD: no cross terms between clients (FedDTL §3 leaves it
open)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from feddtl.aggregators.base import Aggregator, sample_shares
from feddtl.messages import Aggregate, Update
from feddtl.models.averaging import product_norm
from feddtl.models.lora import A_SUFFIX, layer_names, mix, truncate


class Product(Aggregator):
    """Averages B·A and factorises it anew; `lora.aggregation` = 'product'."""

    def combine(self, updates: Sequence[Update]) -> Aggregate:
        """See `Aggregator.combine`; needs LoRA factors."""
        first, shares = updates[0].weights, sample_shares(updates)
        rank = first[layer_names(first)[0] + A_SUFFIX].shape[0]
        return Aggregate(truncate(mix([update.weights for update in updates], shares), rank), shares)

    def distance(self, weights: Mapping[str, Tensor], aggregate: Mapping[str, Tensor]) -> float:
        """‖B_k·A_k − B·A‖_F over all layers: equal products may have different factors."""
        return product_norm(mix([weights, aggregate], [1.0, -1.0]))
