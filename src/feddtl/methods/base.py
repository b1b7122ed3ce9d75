"""What a federated method is: broadcast, client update, aggregation, classifier. No process, socket or file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from feddtl.config import Experiment
from feddtl.messages import ExpectedUpdate, Payload, ServerState, Update
from feddtl.models.backbone import BOTH_TOWERS, Backbone, Tower
from feddtl.models.lora import Lora, Tensors
from feddtl.training.client_data import ClientData
from feddtl.training.local import EpochObserver, ignore_epochs


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

    clip: Backbone
    class_names: tuple[str, ...]
    prompt_template: str
    seed: int
    novel_names: tuple[str, ...] = ()


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


class Method(ABC):
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
