"""What a federated method is: broadcast, client update, aggregation, classifier. No process, socket or file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from feddtl.config import Experiment
from feddtl.models.activations import Activations
from feddtl.models.clip import Clip
from feddtl.models.lora import Lora, Tensors
from feddtl.models.modules import BOTH_TOWERS, Tower


@dataclass(frozen=True)
class Task:
    """What all parties agree on before round 1.

    Attributes:
        clip: The frozen model.
        class_names: The base classes, in label order.
        prompt_template: Text with `{class}` in it.
        seed: Seed of everything random in the method.
        novel_names: Classes that nobody trains on and that clients have test images of.
    """

    clip: Clip
    class_names: tuple[str, ...]
    prompt_template: str
    seed: int
    novel_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClientData:
    """A client's training images, once through the blocks that never change.

    Attributes:
        client: Id from 0.
        activations: N · views rows (S, d), the input of the method's first changing image block; row
            position · views + view.
        labels: (N,) base-class ids.
        views: Frozen views of each image.
    """

    client: int
    activations: Activations
    labels: Tensor
    views: int = 1

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, positions: Tensor, round_number: int) -> Tensor:
        """Activations (B, S, d) of images (B,), in the view whose turn it is.

        One round sees one view of an image, so that the old policy, the reference and the upload agree; its
        neighbours are seen in other views at the same time.
        """
        view = (round_number - 1 + positions) % self.views
        return self.activations.rows(positions * self.views + view)

    def select(self, positions: Tensor) -> ClientData:
        """The images at positions (N,), in all their views; no activation is copied."""
        chosen = self.activations.select(rows_of_views(positions, self.views))
        return ClientData(self.client, chosen, self.labels[positions], self.views)


def rows_of_views(positions: Tensor, views: int) -> Tensor:
    """Rows of all views of images (N,), image by image: (N · views,)."""
    return (positions[:, None] * views + torch.arange(views)).flatten()


@dataclass(frozen=True)
class ServerState:
    """Everything the server keeps between two rounds.

    Attributes:
        round: Rounds done.
        tensors: Named tensors; maps one to one onto a safetensors file.
    """

    round: int
    tensors: Tensors


@dataclass(frozen=True)
class Payload:
    """What the server broadcasts for a round.

    Attributes:
        round: The round it opens, from 1.
        tensors: Named tensors.
    """

    round: int
    tensors: Tensors


@dataclass(frozen=True)
class Update:
    """What a client returns.

    Attributes:
        client: Id from 0.
        num_images: Training images N_k.
        weights: Tensors that may be summed over clients (adapters): secure aggregation can hide them.
        samples: Tensors with a row per image (embeddings, labels): summing them makes no sense.
        metrics: Scalars for the log.
        personal: Tensors that stay on the client until its next round; never uplink traffic.
    """

    client: int
    num_images: int
    weights: Tensors
    samples: Tensors = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    personal: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class ExpectedUpdate:
    """What an update that answers a broadcast must look like, for whoever receives it from elsewhere.

    Attributes:
        weights: The tensors that the client started from, by their name in `Update.weights`.
        embeddings: Width of a row of each tensor of `Update.samples` whose rows are unit vectors.
        labels: Names in `Update.samples` of tensors (n,) of base-class ids.
    """

    weights: Tensors
    embeddings: Mapping[str, int] = field(default_factory=dict)
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Aggregate:
    """Result of the server's part of a round: the next state and scalars for the log."""

    state: ServerState
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedParameters:
    """How many numbers a method trains, by where they are trained and what becomes of them.

    Attributes:
        shared: On each client, then sent and averaged.
        personal: On each client, which keeps them.
        server: On the server.
    """

    shared: int = 0
    personal: int = 0
    server: int = 0


class EpochObserver(Protocol):
    """Told of each finished local epoch of each client."""

    def __call__(self, client: int, epoch: int, epochs: int) -> None: ...


def ignore_epochs(client: int, epoch: int, epochs: int) -> None:
    """Observer for whoever does not watch."""


class Classifier(Protocol):
    """Class names in, unit embeddings out; logits are s times their cosines."""

    @property
    def images_per_pass(self) -> int:
        """Images that one call of `image_features` should hold."""
        ...

    def image_features(self, activations: Tensor) -> Tensor:
        """Unit image embeddings (B, e) from the input of the method's first changing image block, (B, S, d)."""
        ...

    def text_embeddings(self, class_names: Sequence[str]) -> Tensor:
        """Unit text embeddings (C, e)."""
        ...


class Algorithm(ABC):
    """A federated method.

    Attributes:
        task: What all parties agree on.
        first_image_block: First block of the image tower that the method changes, from 0; the number of blocks where
            it changes none.
        trains: False for a method without training; a runtime then runs no round.
        clients_together: Clients whose steps are best computed as one on this device; 1 where a method cannot.
        client_towers: Towers whose weights `client_update` needs.
        server_towers: Towers whose weights `init_server`, `broadcast` and `aggregate` need. To classify takes both.
    """

    task: Task
    first_image_block: int
    trains: bool = True
    clients_together: int = 1
    client_towers: frozenset[Tower] = BOTH_TOWERS
    server_towers: frozenset[Tower] = BOTH_TOWERS

    @abstractmethod
    def __init__(self, task: Task, experiment: Experiment) -> None:
        """The method on a task, with an experiment's settings."""

    @abstractmethod
    def init_server(self) -> ServerState:
        """State before round 1."""

    @abstractmethod
    def broadcast(self, state: ServerState) -> Payload:
        """Payload that opens round `state.round + 1`."""

    @abstractmethod
    def client_update(
        self, payload: Payload, data: ClientData, personal: Tensors, observer: EpochObserver = ignore_epochs
    ) -> Update:
        """Local fine-tuning; depends on the payload, the client's data and what it kept, on nothing else."""

    def client_updates(
        self,
        payload: Payload,
        clients: Sequence[ClientData],
        personal: Sequence[Tensors],
        observer: EpochObserver = ignore_epochs,
    ) -> list[Update]:
        """`client_update` of several clients; a method may compute their steps together, equal up to rounding."""
        return [self.client_update(payload, data, kept, observer) for data, kept in zip(clients, personal, strict=True)]

    def expected_update(self, payload: Payload) -> ExpectedUpdate:
        """What an update that answers this payload looks like; by default, the tensors of the payload come back."""
        return ExpectedUpdate(payload.tensors)

    @abstractmethod
    def aggregate(self, state: ServerState, updates: Sequence[Update]) -> Aggregate:
        """Next state from the updates of a round, which come sorted by client."""

    @abstractmethod
    def classifier(self, state: ServerState, update: Update | None = None) -> Classifier:
        """The global model, or with `update` the model of that client when the round began at `state`."""

    def received_classifier(self, payload: Payload, update: Update | None = None) -> Classifier:
        """`classifier` as a client forms it, from the broadcast that opened the round."""
        return self.classifier(ServerState(payload.round - 1, payload.tensors), update)

    @abstractmethod
    def trained_parameters(self) -> TrainedParameters:
        """How many numbers are trained."""

    @abstractmethod
    def adapters(self, state: ServerState) -> Mapping[str, Lora]:
        """Trained LoRA by tower ('visual', 'text'), for export; empty where the method has none."""

    def stage(self, round_number: int) -> str:
        """Name of the training stage of a round, for the log."""
        return "sft"


def count_parameters(tensors: Mapping[str, Tensor]) -> int:
    """Numbers in named tensors."""
    return sum(tensor.numel() for tensor in tensors.values())


def tensor_bytes(*groups: Mapping[str, Tensor]) -> int:
    """Bytes of named tensors on the wire, without framing."""
    return sum(tensor.numel() * tensor.element_size() for group in groups for tensor in group.values())
