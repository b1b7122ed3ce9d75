"""FedLoRA: LoRA of both towers trained on the client, both aggregated (ablation rows of FedDTL, §4).

With `schedule.stages = 'sft'` it is the plain baseline; with 'sft-then-rl' the row "+ two-stage". Optimiser,
learning rate, epochs and rank are FedDTL's, so that the rows differ in the ablated part only.
"""

from __future__ import annotations

from feddtl.methods.lora import LoraMethod
from feddtl.models.lora import Tensors


class FedLoRA(LoraMethod):
    """Federated averaging of the LoRA of two towers."""

    def initial_shared(self) -> Tensors:
        """Fresh LoRA of both towers."""
        return self.shared_factors("image", "text")
