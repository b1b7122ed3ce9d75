"""FedEx-LoRA: FedLoRA with an exact average (Singhal et al. 2024, arXiv 2410.09432).

A and B are averaged each, and what the product of the means lacks of the mean of the products is added to the frozen
weight. Optimiser, rate, epochs and rank are FedLoRA's. In the paper clients keep the changed weight and receive the
residual of a round; here they keep nothing and receive the sum of all residuals.
"""

from __future__ import annotations

from typing import ClassVar

from feddtl.methods.catalog import LoraAggregation
from feddtl.methods.fedlora.method import FedLoRA


class FedExLoRA(FedLoRA):
    """Federated averaging of A and B with the residual of their product."""

    own_aggregation: ClassVar[LoraAggregation | None] = "residual"
