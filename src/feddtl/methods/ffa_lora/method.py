"""FFA-LoRA: FedLoRA with A frozen (Sun et al., ICLR 2024, arXiv 2403.12313).

A stays as it was drawn, on all clients alike, and only B is trained, sent and averaged. The mean of the products is
then the product with the mean of B. Optimiser, rate, epochs and rank are FedLoRA's.
"""

from __future__ import annotations

from typing import ClassVar

from feddtl.methods.catalog import LoraAggregation
from feddtl.methods.fedlora.method import FedLoRA


class FFALoRA(FedLoRA):
    """Federated averaging of B."""

    own_aggregation: ClassVar[LoraAggregation | None] = "frozen-a"
