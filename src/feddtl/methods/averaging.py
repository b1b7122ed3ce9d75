"""Federated averaging of any trained tensors (McMahan et al. 2017): what the compared methods have in common.

A method says which tensors it starts from, which of them stay on the client, and what they do to the two towers. The
rest is one protocol for all: cross-entropy over the base classes at the pre-trained logit scale, a fresh optimiser per
client and round, a sample-weighted mean of what is shared.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from feddtl.aggregators.mean import average_tensors, client_drift
from feddtl.config import Experiment
from feddtl.messages import Payload, ServerState, Update, count_parameters
from feddtl.methods.base import Aggregate, Classifier, Method, Task, TrainedParameters
from feddtl.models.backbone import Backbone
from feddtl.models.lora import Lora, Tensors
from feddtl.tensor_groups import update_norm
from feddtl.training.client_data import ClientData
from feddtl.training.local import (
    EpochObserver,
    Learner,
    detached,
    ignore_epochs,
    local_optimizer,
    train,
    trainable_copy,
)
from feddtl.training.objective import LocalRandomness, Objective
from feddtl.training.policy import Policy
from feddtl.training.stages import Supervised


class FederatedAveraging(Method):
    """A method that trains named tensors on the clients and averages those that it shares.

    Attributes:
        own_optimizer: What `local.optimizer = "auto"` stands for.
    """

    own_optimizer: Literal["adam", "sgd"] = "sgd"

    def __init__(self, task: Task, experiment: Experiment) -> None:
        self.task = task
        self.experiment = experiment
        self.first_image_block = len(task.clip.image.stack)

    @property
    def clip(self) -> Backbone:
        """The frozen model."""
        return self.task.clip

    @property
    def images_per_pass(self) -> int:
        """Images that one pass holds: at least a whole batch where there is no block to pass."""
        image = self.clip.image
        if self.first_image_block == len(image.stack):
            return max(self.experiment.local.batch_size, image.images_per_pass)
        return image.images_per_pass

    @abstractmethod
    def initial_shared(self) -> Tensors:
        """What the server starts from: the tensors that are averaged."""

    def initial_personal(self, client: int) -> Tensors:
        """What a client starts from beside them and keeps; nothing by default."""
        return {}

    def image_features(self, tensors: Mapping[str, Tensor], activations: Tensor) -> Tensor:
        """Projected features (B, e), before normalisation, from activations at `first_image_block`.

        The frozen tower's by default.
        """
        return self.clip.image.features(activations, self.first_image_block)

    @abstractmethod
    def text_features(self, tensors: Mapping[str, Tensor], class_names: Sequence[str]) -> Tensor:
        """Projected text features (C, e), before normalisation."""

    def objective(self, policy: Policy, learner: Learner) -> Objective:
        """What a client minimises: cross-entropy by default."""
        return Supervised(policy, [learner])

    def global_tensors(self, state: ServerState) -> Tensors:
        """Tensors of the global model: those that are shared."""
        return state.tensors

    def init_server(self) -> ServerState:
        """The shared tensors before round 1."""
        return ServerState(0, self.initial_shared())

    def broadcast(self, state: ServerState) -> Payload:
        """The shared tensors."""
        return Payload(state.round + 1, state.tensors)

    def client_update(
        self, payload: Payload, data: ClientData, personal: Tensors, observer: EpochObserver = ignore_epochs
    ) -> Update:
        """Train shared and personal tensors on the client's images; the personal ones stay."""
        kept = personal or self.initial_personal(data.client)
        received = {**payload.tensors, **kept}
        policy = self._policy(data, payload.round)
        order = LocalRandomness(self.task.seed, data.client, payload.round).generator("batch-order")
        learner = Learner(trainable_copy(received, policy.device), policy.rows_of(0), order)
        local = self.experiment.local
        [metrics] = train(
            [learner],
            self.objective(policy, learner).step,
            epochs=local.epochs,
            batch_size=local.batch_size,
            optimizer=local_optimizer([learner], local, self.own_optimizer),
            observer=lambda index, done, epochs: observer(data.client, done, epochs),
        )
        tuned = detached(learner.parameters)
        shared = {name: tuned[name] for name in payload.tensors}
        metrics["update_norm"] = update_norm(shared, payload.tensors)
        return Update(data.client, len(data), shared, metrics=metrics, personal={name: tuned[name] for name in kept})

    def aggregate(self, state: ServerState, updates: Sequence[Update]) -> Aggregate:
        """w ← Σ_k N_k/N · w_k."""
        averaged = ServerState(state.round + 1, average_tensors(updates))
        return Aggregate(averaged, {"client_drift": client_drift(updates)})

    def classifier(self, state: ServerState, update: Update | None = None) -> Classifier:
        """The global model, or a client's own with what it kept."""
        tensors = self.global_tensors(state) if update is None else {**update.weights, **update.personal}
        return TensorClassifier(self, {name: tensor.to(self.clip.image.device) for name, tensor in tensors.items()})

    def adapters(self, state: ServerState) -> Mapping[str, Lora]:
        """None: what is trained is no LoRA."""
        return {}

    def trained_parameters(self) -> TrainedParameters:
        """What is averaged and what a client keeps."""
        return TrainedParameters(count_parameters(self.initial_shared()), count_parameters(self.initial_personal(0)))

    def _policy(self, data: ClientData, round_number: int) -> Policy:
        return Policy(
            [data],
            round_number,
            lambda tensors, activations, owners: self.image_features(tensors[0], activations),
            lambda tensors: normalize(self.text_features(tensors[0], self.task.class_names), dim=-1)[None],
            self.clip.logit_scale,
            self.clip.image.feature_width,
            self.clip.image.device,
            self.images_per_pass,
        )


@dataclass(frozen=True)
class TensorClassifier:
    """A method's towers with given tensors.

    Attributes:
        method: Whose towers.
        tensors: On the model's device.
    """

    method: FederatedAveraging
    tensors: Mapping[str, Tensor]

    @property
    def images_per_pass(self) -> int:
        """See `FederatedAveraging.images_per_pass`."""
        return self.method.images_per_pass

    @torch.no_grad()
    def image_features(self, activations: Tensor) -> Tensor:
        """Unit image embeddings (B, e) from activations at the method's first block."""
        return normalize(self.method.image_features(self.tensors, activations), dim=-1)

    @torch.no_grad()
    def text_embeddings(self, class_names: Sequence[str]) -> Tensor:
        """Unit text embeddings (C, e)."""
        return normalize(self.method.text_features(self.tensors, tuple(class_names)), dim=-1)
