"""The federated method of named tensors: one local round and one server step for every method.

A method says which tensors it starts from, which of them stay on the client, and what they do to the two towers. The
rest is here, once: supervised rounds and then reinforcement learning, the steps of several clients computed as one,
frozen views of the images, a penalty on the tensors, a fresh optimiser for every client and round.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from feddtl.config import TrainingSettings
from feddtl.messages import ExpectedUpdate, Payload, ServerState, Update, count_parameters
from feddtl.methods.base import Classifier, Method, NextState, Task, TrainedParameters
from feddtl.methods.lora_clip import frozen_text
from feddtl.models.backbone import Backbone
from feddtl.models.lora import Tensors
from feddtl.tensor_groups import add_prefix, select_prefix, update_norm
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
from feddtl.training.penalties import penalties_of
from feddtl.training.policy import Policy
from feddtl.training.reinforcement import Reinforcement
from feddtl.training.supervised import Supervised

# Groups of tensors in a server state and in a payload.
SHARED = "shared"
ANCHOR = "anchor"  # the shared tensors after the last SFT round


class FederatedMethod(Method):
    """A method that trains named tensors on the clients and shares some of them.

    Server state and payload hold `shared/…` and, where the schedule has RL rounds, `anchor/…`.

    Attributes:
        own_optimizer: What `local.optimizer = "auto"` stands for.
        batches_clients: False where one step cannot hold images of several clients.
    """

    own_optimizer: ClassVar[Literal["adam", "sgd"]] = "sgd"
    batches_clients: bool = True

    def __init__(self, task: Task, settings: Any, training: TrainingSettings) -> None:
        super().__init__(task, settings, training)
        self.first_image_block = len(task.clip.image.stack)

    @property
    def clip(self) -> Backbone:
        """The frozen model."""
        return self.task.clip

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.clip.image.device

    @property
    def images_per_pass(self) -> int:
        """Images that one pass holds: at least a whole batch where there is no block to pass."""
        image = self.clip.image
        if self.first_image_block == len(image.stack):
            return max(self.training.local.batch_size, image.images_per_pass)
        return image.images_per_pass

    # What a method answers.

    @abstractmethod
    def initial_shared(self) -> Tensors:
        """What the server starts from: the tensors that are sent and aggregated."""

    def initial_personal(self, client: int) -> Tensors:
        """What a client starts from beside them and keeps; nothing by default."""
        return {}

    def image_features(self, tensors: Mapping[str, Tensor], activations: Tensor) -> Tensor:
        """Projected features (B, e), before normalisation, from activations at `first_image_block`.

        The frozen tower's by default.
        """
        return self.clip.image.features(activations, self.first_image_block)

    def text_features(self, tensors: Mapping[str, Tensor], class_names: Sequence[str]) -> Tensor:
        """Projected text features (C, e), before normalisation; the frozen tower's by default."""
        features, _ = frozen_text(self.clip, class_names, self.task.prompt_template, len(self.clip.text.stack))
        return features

    def image_features_of_clients(
        self, tensors: Sequence[Mapping[str, Tensor]], activations: Tensor, owners: Tensor
    ) -> Tensor:
        """Projected features (B, e), each image under the tensors of its owner, (B,), which are sorted.

        One call of `image_features` for each owner by default; a method may compute them as one.
        """
        if len(tensors) == 1:
            return self.image_features(tensors[0], activations)
        counts = torch.bincount(owners, minlength=len(tensors)).tolist()
        shares = zip(tensors, torch.split(activations, counts), strict=True)
        return torch.cat([self.image_features(own, share) for own, share in shares if len(share)])

    def text_embeddings_of_clients(self, tensors: Sequence[Mapping[str, Tensor]], payload: Payload) -> Tensor:
        """Unit embeddings (K, C, e) of the base classes under the tensors of K clients, or (1, C, e) for all.

        Args:
            tensors: Of each client.
            payload: The broadcast that opened the round.
        """
        features = [self.text_features(own, self.task.class_names) for own in tensors]
        return normalize(torch.stack(features), dim=-1)

    def supervised_objective(self, policy: Policy, learners: Sequence[Learner]) -> Objective:
        """What a client minimises in SFT rounds: cross-entropy over the base classes by default."""
        return Supervised(policy, learners)

    def mix(self, parts: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> Tensors:
        """The model between several: Σ_i w_i · t_i for each tensor by default."""
        pairs = list(zip(weights, parts, strict=True))
        return {name: torch.stack([weight * part[name] for weight, part in pairs]).sum(dim=0) for name in parts[0]}

    def uplink_samples(
        self, policy: Policy, learners: Sequence[Learner], clients: Sequence[ClientData], round_number: int
    ) -> list[Tensors]:
        """Tensors with a row per image that each client sends after training; none by default."""
        return [{} for _ in clients]

    def global_tensors(self, state: ServerState) -> Tensors:
        """Tensors of the global model: those that are shared."""
        return self.trained_tensors(state)

    # What follows for every method.

    def trained_tensors(self, state: ServerState) -> Tensors:
        """The shared tensors."""
        return select_prefix(state.tensors, SHARED)

    def init_server(self) -> ServerState:
        """The shared tensors before round 1."""
        return ServerState(0, self._with_anchor(self.initial_shared(), {}, round_number=0))

    def broadcast(self, state: ServerState) -> Payload:
        """The shared tensors; in the RL stage the SFT anchor too, so that a client may join at any round."""
        tensors = add_prefix(SHARED, select_prefix(state.tensors, SHARED))
        if self.stage(state.round + 1) == "rl":
            tensors |= add_prefix(ANCHOR, select_prefix(state.tensors, ANCHOR))
        return Payload(state.round + 1, tensors)

    def expected_update(self, payload: Payload) -> ExpectedUpdate:
        """The shared tensors come back."""
        return ExpectedUpdate(select_prefix(payload.tensors, SHARED))

    def client_updates(
        self,
        payload: Payload,
        clients: Sequence[ClientData],
        personal: Sequence[Tensors],
        observer: EpochObserver = ignore_epochs,
    ) -> list[Update]:
        """Train the shared and the personal tensors on the clients' images; the personal ones stay."""
        if len(clients) > 1 and not self.batches_clients:
            pairs = zip(clients, personal, strict=True)
            return [self.client_update(payload, data, own, observer) for data, own in pairs]
        kept = [own or self.initial_personal(data.client) for data, own in zip(clients, personal, strict=True)]
        shared = select_prefix(payload.tensors, SHARED)
        policy = self._policy(clients, payload)
        randomness = [LocalRandomness(self.task.seed, data.client, payload.round) for data in clients]
        learners = [
            Learner(
                trainable_copy({**shared, **own}, self.device), policy.rows_of(index), source.generator("batch-order")
            )
            for index, (own, source) in enumerate(zip(kept, randomness, strict=True))
        ]
        objective = self._objective(payload, policy, learners, kept, randomness)
        local = self.training.local
        metrics = train(
            learners,
            objective.step,
            epochs=self.training.local_epochs(self.stage(payload.round)),
            batch_size=local.batch_size,
            optimizer=local_optimizer(learners, local, self.own_optimizer),
            before_epoch=objective.before_epoch,
            observer=lambda index, done, epochs: observer(clients[index].client, done, epochs),
        )
        samples = self.uplink_samples(policy, learners, clients, payload.round)
        updates = []
        for data, learner, own, rows, of_client in zip(clients, learners, kept, samples, metrics, strict=True):
            tuned = detached(learner.parameters)
            weights, stays = {name: tuned[name] for name in shared}, {name: tuned[name] for name in own}
            numbers = {**of_client, "update_norm": update_norm(weights, shared)}
            updates.append(Update(data.client, len(data), weights, rows, numbers, stays))
        return updates

    def next_state(self, state: ServerState, aggregated: Tensors, updates: Sequence[Update]) -> NextState:
        """The aggregated tensors are the shared ones; they are the anchor too as long as SFT lasts."""
        tensors = self._with_anchor(aggregated, state.tensors, state.round + 1)
        return NextState(ServerState(state.round + 1, tensors))

    def classifier(self, state: ServerState, update: Update | None = None) -> Classifier:
        """The global model, or a client's own with what it kept."""
        tensors = self.global_tensors(state) if update is None else {**update.weights, **update.personal}
        return TensorClassifier(self, {name: tensor.to(self.device) for name, tensor in tensors.items()})

    def trained_parameters(self) -> TrainedParameters:
        """What is shared and what a client keeps."""
        return TrainedParameters(count_parameters(self.initial_shared()), count_parameters(self.initial_personal(0)))

    def _with_anchor(self, shared: Tensors, before: Mapping[str, Tensor], round_number: int) -> Tensors:
        """Shared tensors after a round in their group, with the anchor where the schedule has RL rounds."""
        tensors = add_prefix(SHARED, shared)
        if self.training.last_sft_round == self.training.rounds:
            return tensors
        anchor = shared if self.stage(round_number) == "sft" else select_prefix(before, ANCHOR)
        return {**tensors, **add_prefix(ANCHOR, anchor)}

    def _policy(self, clients: Sequence[ClientData], payload: Payload) -> Policy:
        return Policy(
            clients,
            payload.round,
            self.image_features_of_clients,
            lambda tensors: self.text_embeddings_of_clients(tensors, payload),
            self.clip.logit_scale,
            self.clip.image.feature_width,
            self.device,
            self.images_per_pass,
        )

    def _objective(
        self,
        payload: Payload,
        policy: Policy,
        learners: Sequence[Learner],
        kept: Sequence[Tensors],
        randomness: Sequence[LocalRandomness],
    ) -> Objective:
        """What the clients minimise in this round, ready for the first step."""
        shared = self._on_device(select_prefix(payload.tensors, SHARED))
        if self.stage(payload.round) == "sft":
            objective = self.supervised_objective(policy, learners)
        else:
            # A personal part has no anchor of its own: what the client kept belongs to both models. Without one, all
            # clients have the same two models, which are evaluated as one.
            own = [self._on_device(tensors) for tensors in kept] if any(kept) else [{}]
            anchor = self._on_device(select_prefix(payload.tensors, ANCHOR))
            objective = Reinforcement(
                policy,
                learners,
                self.training.rl,
                randomness,
                received=[{**shared, **tensors} for tensors in own],
                anchor=[{**anchor, **tensors} for tensors in own],
                mix=self.mix,
            )
        objective.penalties = penalties_of(self.training.local, shared)
        return objective

    def _on_device(self, tensors: Mapping[str, Tensor]) -> Tensors:
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}


@dataclass(frozen=True)
class TensorClassifier:
    """A method's towers with given tensors.

    Attributes:
        method: Whose towers.
        tensors: On the model's device.
    """

    method: FederatedMethod
    tensors: Mapping[str, Tensor]

    @property
    def images_per_pass(self) -> int:
        """See `FederatedMethod.images_per_pass`."""
        return self.method.images_per_pass

    @torch.no_grad()
    def image_features(self, activations: Tensor) -> Tensor:
        """Unit image embeddings (B, e) from activations at the method's first block."""
        return normalize(self.method.image_features(self.tensors, activations), dim=-1)

    @torch.no_grad()
    def text_embeddings(self, class_names: Sequence[str]) -> Tensor:
        """Unit text embeddings (C, e)."""
        return normalize(self.method.text_features(self.tensors, tuple(class_names)), dim=-1)
