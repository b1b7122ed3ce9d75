"""FedSA-LoRA: LoRA of both towers of which A is shared and B stays on the client (Guo et al., ICLR 2025, arXiv
2410.01463).

Optimiser, rate, epochs and rank are FedLoRA's. B belongs to one client each, so the model of the server has the initial
B, which is zero: it is the pre-trained CLIP, and the clients' own models are what the method is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from feddtl.messages import Aggregate, ServerState, Update
from feddtl.methods.base import Method, NextState
from feddtl.methods.catalog import LoraAggregation
from feddtl.methods.lora import LoraMethod
from feddtl.models.lora import A_SUFFIX, Lora, Tensors


class FedSALoRA(LoraMethod):
    """Federated averaging of A."""

    own_aggregation: ClassVar[LoraAggregation | None] = "factors"

    def initial_shared(self) -> Tensors:
        """A of both towers."""
        return {name: factor for name, factor in self._factors().items() if name.endswith(A_SUFFIX)}

    def initial_personal(self, client: int) -> Tensors:
        """B of both towers, zero."""
        return {name: factor for name, factor in self._factors().items() if not name.endswith(A_SUFFIX)}

    def global_tensors(self, state: ServerState) -> Tensors:
        """The averaged A, and B as no client has trained it."""
        return {**self.trained_tensors(state), **self.initial_personal(0)}

    def next_state(self, state: ServerState, aggregate: Aggregate, updates: Sequence[Update]) -> NextState:
        """See `Method.next_state`; without B the server knows no product, and no error of averaging it."""
        return Method.next_state(self, state, aggregate, updates)

    def adapters(self, state: ServerState) -> Mapping[str, Lora]:
        """None: each client has its own."""
        return {}

    def _factors(self) -> Tensors:
        return self.shared_factors("image", "text")
