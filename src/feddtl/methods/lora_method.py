"""What methods that share LoRA factors have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from feddtl.config import TrainingSettings
from feddtl.methods.base import Task
from feddtl.methods.federated import FederatedMethod
from feddtl.methods.lora_clip import LoraClip
from feddtl.models.lora import Tensors, mix


class LoraMethod(FederatedMethod):
    """A method whose shared tensors are LoRA factors.

    Attributes:
        model: CLIP and where its adapters go.
    """

    own_optimizer: ClassVar[Literal["adam", "sgd"]] = "adam"
    trains_lora: ClassVar[bool] = True

    def __init__(self, task: Task, settings: Any, training: TrainingSettings) -> None:
        super().__init__(task, settings, training)
        self.model = LoraClip(task, training.lora)
        self.first_image_block = self.model.first_image_block
        self.clients_together = self.model.clients_together(training.local.batch_size)

    def mix(self, parts: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> Tensors:
        """Factors of Σ_i w_i · B_i A_i, exact: a mean of the factors would be another model."""
        return mix(parts, weights)
