"""What a federated method is: tensors that clients train, and what they do to the two towers of a backbone.

A method defines the tensors, which of them stay on a client, and how images and texts are encoded with them. The rest
is here, once for all methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from feddtl.aggregators.base import Aggregator
from feddtl.aggregators.catalog import build_aggregator
from feddtl.config import TrainingSettings
from feddtl.messages import Aggregate, ExpectedUpdate, Payload, ServerState, Update, count_parameters
from feddtl.methods.catalog import LoraAggregation, NoSettings
from feddtl.methods.classifier import Classifier
from feddtl.methods.local_round import ANCHOR, SHARED, local_round
from feddtl.methods.task import Task
from feddtl.models.backbone import BOTH_TOWERS, Tower
from feddtl.models.lora import Lora, Tensors
from feddtl.models.text_tower import mean_over_templates, prompts_for
from feddtl.models.towers import Adapter, Beside
from feddtl.tensor_groups import add_prefix, keep_groups, select_prefix
from feddtl.training.client_data import ClientData
from feddtl.training.local import EpochObserver, Learner, ignore_epochs
from feddtl.training.objective import Objective, Supervised
from feddtl.training.policy import Policy


@dataclass(frozen=True)
class NextState:
    """Result of the server's part of a round: the next state and scalars for the log."""

    state: ServerState
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedParameters:
    """How many numbers a method trains.

    Attributes:
        shared: On each client, then sent and aggregated.
        personal: On each client, which keeps them.
        server: On the server.
    """

    shared: int = 0
    personal: int = 0
    server: int = 0


class Method(ABC):
    """A federated method: named tensors that clients train, and share or keep.

    A subclass defines `initial_shared` and overrides `image_features` or `text_features`. Server state and payload
    consist of `shared/…` and, if the schedule has RL rounds, `anchor/…`.

    Args:
        task: What server and clients agree on.
        settings: The method's own settings, an instance of `Settings`.
        training: Settings of local training, of its two stages and of the server, common to all methods.

    Attributes:
        Settings, title: Type of the method's own settings, a frozen dataclass of scalars, and name in tables; of a
            built-in method the table in `feddtl.methods.catalog` has them.
        trains: False for a method without training; a runtime then runs no round.
        trains_lora: Whether what clients send are LoRA factors.
        learns_prompts: Whether it has prompts of its own, so that there are no templates to average.
        own_aggregation: The only value of `lora.aggregation` that it works with; None: any.
        trains_on_server: Whether `next_state` trains, with `server.learning_rate`.
        client_towers: Towers whose weights `client_update` needs.
        server_towers: Towers whose weights `init_server`, `broadcast` and `next_state` need. Classifying takes both.
        own_optimizer: What `local.optimizer = "auto"` stands for.
        first_image_block: First block of the image tower that the method changes, from 0; the number of blocks if it
            changes none.
        clients_together: Clients whose steps are best computed as one on this device.
        batches_clients: False if one step cannot take images of several clients.
    """

    Settings: ClassVar[type[Any]] = NoSettings
    title: ClassVar[str] = ""
    trains: ClassVar[bool] = True
    trains_lora: ClassVar[bool] = False
    learns_prompts: ClassVar[bool] = False
    own_aggregation: ClassVar[LoraAggregation | None] = None
    trains_on_server: ClassVar[bool] = False
    client_towers: ClassVar[frozenset[Tower]] = BOTH_TOWERS
    server_towers: ClassVar[frozenset[Tower]] = BOTH_TOWERS
    own_optimizer: ClassVar[Literal["adam", "sgd"]] = "sgd"
    clients_together: int = 1
    batches_clients: bool = True

    def __init__(self, task: Task, settings: Any, training: TrainingSettings) -> None:
        self.task = task
        self.settings = settings
        self.training = training
        self.clip = task.clip
        self.device = task.clip.image.device
        self.first_image_block = len(task.clip.image.stack)

    @property
    def prompt(self) -> str:
        """The template for class names, or several, a line each: that of the task, unless the method has its own."""
        return self.task.prompt_template

    def with_prompt(self, prompt: str) -> Self:
        """The same method with another prompt, also in place of one of its own."""
        return type(self)(replace(self.task, prompt_template=prompt), self.settings, self.training)

    @property
    def images_per_pass(self) -> int:
        """Images that one pass takes: at least a whole batch if the method changes no block."""
        image = self.clip.image
        whole = self.training.local.batch_size if self.first_image_block == len(image.stack) else 0
        return max(whole, image.images_per_pass)

    @property
    def feature_width(self) -> int:
        """Width of the rows of `image_features` on a client; e by default."""
        return self.clip.image.feature_width

    # What a method defines.

    @abstractmethod
    def initial_shared(self) -> Tensors:
        """What the server starts from: the tensors that are sent and aggregated."""

    def initial_personal(self, client: int) -> Tensors:
        """What a client starts from and keeps to itself; nothing by default."""
        return {}

    def image_features(self, tensors: Mapping[str, Tensor], activations: Tensor) -> Tensor:
        """Projected features (B, e), before normalisation, from activations at `first_image_block`; those of the
        frozen tower by default."""
        return self.clip.image.features(activations, self.first_image_block)

    def text_features(self, tensors: Mapping[str, Tensor], class_names: Sequence[str]) -> Tensor:
        """Projected text features (C, e), before normalisation; those of the frozen tower by default."""
        return self.class_features(class_names, len(self.clip.text.stack))

    # What a method may change.

    def image_features_of_clients(
        self, tensors: Sequence[Mapping[str, Tensor]], activations: Tensor, owners: Tensor
    ) -> Tensor:
        """Projected features (B, e) of several clients' images; owners (B,), sorted, are positions in `tensors`.

        One call of `image_features` for each owner by default; a method may compute them as one.
        """
        if len(tensors) == 1:
            return self.image_features(tensors[0], activations)
        counts = torch.bincount(owners, minlength=len(tensors)).tolist()
        shares = zip(tensors, torch.split(activations, counts), strict=True)
        return torch.cat([self.image_features(own, share) for own, share in shares if len(share)])

    def text_embeddings_of_clients(self, tensors: Sequence[Mapping[str, Tensor]], payload: Payload) -> Tensor:
        """Unit embeddings of the base classes with the tensors of K clients, (K, C, e), or (1, C, e) for all."""
        features = [self.text_features(own, self.task.class_names) for own in tensors]
        return normalize(torch.stack(features), dim=-1)

    def supervised_objective(self, policy: Policy, learners: Sequence[Learner]) -> Objective:
        """What a client minimises in SFT rounds: cross-entropy over the base classes by default."""
        return Supervised(policy, learners)

    def mix(self, parts: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> Tensors:
        """The model between several: Σ_i w_i · t_i for each tensor by default; integers are those of the first."""
        pairs = list(zip(weights, parts, strict=True))
        return {
            name: torch.stack([weight * part[name] for weight, part in pairs]).sum(dim=0)
            if first.is_floating_point()
            else first
            for name, first in parts[0].items()
        }

    def trained_in_round(self, shared: Mapping[str, Tensor], round_number: int) -> Tensors:
        """Those of the shared tensors that clients train in a round and send, in their order; the others stay as they
        were broadcast. All by default."""
        return dict(shared)

    def aggregator(self) -> Aggregator:
        """What combines the clients' updates: the one that the settings of the server name by default."""
        return build_aggregator(self.training.server)

    def uplink_samples(self, policy: Policy, learners: Sequence[Learner]) -> list[Tensors]:
        """Tensors with a row per image that each client sends after training; none by default."""
        return [{} for _ in learners]

    def after_training(self, client: int, round_number: int, tuned: Tensors, received: Mapping[str, Tensor]) -> Tensors:
        """What a client makes of its tensors at the end of a round; the same by default.

        The client sends those whose names it received, in the same shapes, and keeps the others.

        Args:
            client: Id from 0.
            round_number: From 1.
            tuned: Its tensors after training, shared and personal ones by name.
            received: The shared tensors that it received.
        """
        return tuned

    def global_tensors(self, state: ServerState) -> Tensors:
        """Tensors of the global model: those that are shared."""
        return self.trained_tensors(state)

    def notes(self) -> list[str]:
        """What to tell whoever starts a run; nothing by default."""
        return []

    # What is the same for every method.

    def class_features(
        self, class_names: Sequence[str], first_block: int, adapter: Adapter = None, beside: Beside | None = None
    ) -> Tensor:
        """Projected text features (C, e), before normalisation, with changes from block `first_block` on.

        The blocks before it run once, see `TextTower.prefix`. With several templates, see `mean_over_templates`.
        """
        hidden, positions = self.frozen_prompts(class_names, first_block)
        features = self.clip.text.features(hidden, positions, first_block, adapter, beside)
        return mean_over_templates(features, len(class_names))

    def frozen_prompts(self, class_names: Sequence[str], stop: int) -> tuple[Tensor, Tensor]:
        """Input of text block `stop`, (T · C, S, d), and positions (T · C,); see `prompts_for`, `TextTower.prefix`."""
        return self.clip.text.prefix(tuple(prompts_for(class_names, self.task.prompt_template)), stop)

    def init_server(self) -> ServerState:
        """State before round 1."""
        return ServerState(0, self._with_anchor(self.initial_shared(), {}, round_number=0))

    def broadcast(self, state: ServerState) -> Payload:
        """Payload that opens round `state.round + 1`; in the RL stage with the SFT anchor, so that a client may join
        at any round."""
        groups = (SHARED, ANCHOR) if self.stage(state.round + 1) == "rl" else (SHARED,)
        return Payload(state.round + 1, keep_groups(state.tensors, *groups))

    def client_updates(
        self,
        payload: Payload,
        clients: Sequence[ClientData],
        personal: Sequence[Tensors],
        observer: EpochObserver = ignore_epochs,
    ) -> list[Update]:
        """Train some clients, each from the payload, its data and what it kept, and from nothing else; steps of several
        may be computed together, equal up to rounding."""
        if self.batches_clients:
            return local_round(self, payload, clients, personal, observer)
        pairs = zip(clients, personal, strict=True)
        return [update for data, own in pairs for update in local_round(self, payload, [data], [own], observer)]

    def client_update(
        self, payload: Payload, data: ClientData, personal: Tensors, observer: EpochObserver = ignore_epochs
    ) -> Update:
        """`client_updates` of one client."""
        return self.client_updates(payload, [data], [personal], observer)[0]

    def expected_update(self, payload: Payload) -> ExpectedUpdate:
        """What an update that answers this payload looks like, before any transform."""
        return ExpectedUpdate(self.trained_in_round(select_prefix(payload.tensors, SHARED), payload.round))

    def next_state(self, state: ServerState, aggregate: Aggregate, updates: Sequence[Update]) -> NextState:
        """State after a round: the aggregated tensors are shared, and the anchor too as long as SFT lasts.

        Args:
            state: When the round began.
            aggregate: The clients' weights combined into one; shared tensors that are not among them stay as they are.
            updates: What was combined, sorted by client; for training on the server.
        """
        number = state.round + 1
        shared = {**select_prefix(state.tensors, SHARED), **aggregate.tensors}
        return NextState(ServerState(number, self._with_anchor(shared, state.tensors, number)))

    def classifier(self, state: ServerState, update: Update | None = None) -> Classifier:
        """The global model, or with `update` the model of that client when the round began at `state`."""
        own = {} if update is None else {**update.weights, **update.personal}
        tensors = {name: tensor.to(self.device) for name, tensor in {**self.global_tensors(state), **own}.items()}
        return Classifier(
            self.images_per_pass, partial(self.image_features, tensors), partial(self.text_features, tensors)
        )

    def received_classifier(self, payload: Payload, update: Update | None = None) -> Classifier:
        """`classifier` as a client forms it, from the broadcast that opened the round."""
        return self.classifier(ServerState(payload.round - 1, payload.tensors), update)

    def zero_shot_classifier(self) -> Classifier:
        """The pre-trained model on activations at `first_image_block`: what every method is compared with."""
        image, text = partial(Method.image_features, self, {}), partial(Method.text_features, self, {})
        return Classifier(self.clip.image.images_per_pass, image, text)

    def trained_parameters(self) -> TrainedParameters:
        """How many numbers are trained."""
        return TrainedParameters(count_parameters(self.initial_shared()), count_parameters(self.initial_personal(0)))

    def adapters(self, state: ServerState) -> Mapping[str, Lora]:
        """Trained LoRA by tower ('image', 'text'), for export; empty for a method without LoRA."""
        return {}

    def trained_tensors(self, state: ServerState) -> Tensors:
        """The shared tensors, for the run folder."""
        return select_prefix(state.tensors, SHARED)

    def stage(self, round_number: int) -> str:
        """Training stage of a round: 'sft' or 'rl'."""
        return self.training.stage(round_number)

    def _with_anchor(self, shared: Tensors, before: Mapping[str, Tensor], round_number: int) -> Tensors:
        """Shared tensors after a round in their group, with the anchor if the schedule has RL rounds."""
        tensors = add_prefix(SHARED, shared)
        if self.training.last_sft_round == self.training.rounds:
            return tensors
        anchor = shared if self.stage(round_number) == "sft" else select_prefix(before, ANCHOR)
        return {**tensors, **add_prefix(ANCHOR, anchor)}
