"""Zero-shot CLIP (Radford et al. 2021): nothing is trained, nothing is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from feddtl.config import TrainingSettings
from feddtl.messages import ExpectedUpdate, Payload, ServerState, Update
from feddtl.methods.base import Classifier, Method, NextState, Task, TrainedParameters
from feddtl.methods.lora_clip import LoraClassifier
from feddtl.models.lora import Tensors
from feddtl.training.client_data import ClientData
from feddtl.training.local import EpochObserver, ignore_epochs


class ZeroShot(Method):
    """The pre-trained model, as the lowest row of every table."""

    trains: ClassVar[bool] = False

    def __init__(self, task: Task, settings: Any, training: TrainingSettings) -> None:
        super().__init__(task, settings, training)
        # No block changes: only final features are kept.
        self.first_image_block = len(task.clip.image.stack)

    def init_server(self) -> ServerState:
        """Empty."""
        return ServerState(0, {})

    def broadcast(self, state: ServerState) -> Payload:
        """Empty."""
        return Payload(state.round + 1, {})

    def client_updates(
        self,
        payload: Payload,
        clients: Sequence[ClientData],
        personal: Sequence[Tensors],
        observer: EpochObserver = ignore_epochs,
    ) -> list[Update]:
        """Empty."""
        return [Update(data.client, len(data), {}) for data in clients]

    def expected_update(self, payload: Payload) -> ExpectedUpdate:
        """Empty."""
        return ExpectedUpdate({})

    def next_state(self, state: ServerState, aggregated: Tensors, updates: Sequence[Update]) -> NextState:
        """The next round of the same model."""
        return NextState(ServerState(state.round + 1, {}))

    def classifier(self, state: ServerState, update: Update | None = None) -> Classifier:
        """The pre-trained model."""
        return zero_shot_classifier(self.task, self.first_image_block)

    def trained_parameters(self) -> TrainedParameters:
        """None."""
        return TrainedParameters()


def zero_shot_classifier(task: Task, first_image_block: int) -> Classifier:
    """The pre-trained model on activations at any block: what every method is compared with."""
    return LoraClassifier(task.clip, task.prompt_template, first_image_block, len(task.clip.text.stack))
