"""RoLoRA: FedLoRA with A and B in alternate rounds (Chen et al. 2024, arXiv 2409.02346).

B is trained, sent and averaged in odd rounds and A in even ones, while the other is the same on all clients, so that
the mean of the products is the product of the means. Optimiser, rate, epochs and rank are FedLoRA's.
"""

from __future__ import annotations

from typing import ClassVar

from feddtl.methods.catalog import LoraAggregation
from feddtl.methods.fedlora.method import FedLoRA


class RoLoRA(FedLoRA):
    """Federated averaging of one factor at a time."""

    own_aggregation: ClassVar[LoraAggregation | None] = "alternate"
