"""What a federated method is: broadcast, client update, next server state, classifier. No process, socket or file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor

from feddtl.config import TrainingSettings
from feddtl.messages import ExpectedUpdate, Payload, ServerState, Update
from feddtl.methods.catalog import NoSettings
from feddtl.models.backbone import BOTH_TOWERS, Backbone, Tower
from feddtl.models.lora import Lora, Tensors
from feddtl.training.client_data import ClientData
from feddtl.training.local import EpochObserver, ignore_epochs


@dataclass(frozen=True)
class Task:
    """What server and clients agree on before round 1.

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
class NextState:
    """Result of the server's part of a round: the next state and scalars for the log."""

    state: ServerState
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedParameters:
    """How many numbers a method trains, by where they are trained and what becomes of them.

    Attributes:
        shared: On each client, then sent and aggregated.
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

    Args:
        task: What server and clients agree on.
        settings: The method's own settings, an instance of `Settings`.
        training: Settings of local training, of its two stages and of the server, common to all methods.

    Attributes:
        Settings: Type of the method's own settings, a frozen dataclass of scalars.
        title: Name in tables; of built-in methods the table in `feddtl.methods.catalog` has it.
        first_image_block: First block of the image tower that the method changes, from 0; the number of blocks where
            it changes none.
        trains: False for a method without training; a runtime then runs no round.
        clients_together: Clients whose steps are best computed as one on this device.
        trains_lora: Whether what clients send are LoRA factors.
        client_towers: Towers whose weights `client_update` needs.
        server_towers: Towers whose weights `init_server`, `broadcast` and `next_state` need. Classifying takes both.
    """

    Settings: ClassVar[type[Any]] = NoSettings
    title: ClassVar[str] = ""
    trains: ClassVar[bool] = True
    trains_lora: ClassVar[bool] = False
    client_towers: ClassVar[frozenset[Tower]] = BOTH_TOWERS
    server_towers: ClassVar[frozenset[Tower]] = BOTH_TOWERS
    first_image_block: int
    clients_together: int = 1

    def __init__(self, task: Task, settings: Any, training: TrainingSettings) -> None:
        self.task = task
        self.settings = settings
        self.training = training

    @abstractmethod
    def init_server(self) -> ServerState:
        """State before round 1."""

    @abstractmethod
    def broadcast(self, state: ServerState) -> Payload:
        """Payload that opens round `state.round + 1`."""

    @abstractmethod
    def client_updates(
        self,
        payload: Payload,
        clients: Sequence[ClientData],
        personal: Sequence[Tensors],
        observer: EpochObserver = ignore_epochs,
    ) -> list[Update]:
        """Local training of some clients.

        Each update depends on the payload, its client's data and what that client kept, and on nothing else; steps of
        several clients may be computed together, equal up to rounding.
        """

    def client_update(
        self, payload: Payload, data: ClientData, personal: Tensors, observer: EpochObserver = ignore_epochs
    ) -> Update:
        """`client_updates` of one client."""
        return self.client_updates(payload, [data], [personal], observer)[0]

    @abstractmethod
    def expected_update(self, payload: Payload) -> ExpectedUpdate:
        """What an update that answers this payload looks like, before any transform."""

    @abstractmethod
    def next_state(self, state: ServerState, aggregated: Tensors, updates: Sequence[Update]) -> NextState:
        """State after a round.

        Args:
            state: When the round began.
            aggregated: The clients' weights combined into one, by their name in `Update.weights`.
            updates: What was combined, sorted by client; for training on the server.
        """

    @abstractmethod
    def classifier(self, state: ServerState, update: Update | None = None) -> Classifier:
        """The global model, or with `update` the model of that client when the round began at `state`."""

    def received_classifier(self, payload: Payload, update: Update | None = None) -> Classifier:
        """`classifier` as a client forms it, from the broadcast that opened the round."""
        return self.classifier(ServerState(payload.round - 1, payload.tensors), update)

    @abstractmethod
    def trained_parameters(self) -> TrainedParameters:
        """How many numbers are trained."""

    def adapters(self, state: ServerState) -> Mapping[str, Lora]:
        """Trained LoRA by tower ('image', 'text'), for export; empty where the method has none."""
        return {}

    def trained_tensors(self, state: ServerState) -> Tensors:
        """What was trained and belongs to the global model, for the run folder."""
        return state.tensors

    def stage(self, round_number: int) -> str:
        """Training stage of a round: 'sft' or 'rl'."""
        return self.training.stage(round_number)
