"""What all kinds of rounds share: training in this process, checks, scoring, records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from feddtl.config import Experiment
from feddtl.errors import ClientError
from feddtl.evaluate import (
    ClientHits,
    EvaluationSets,
    HitCounts,
    Predictions,
    Scores,
    accuracy,
    client_hits,
    count_hits,
    count_shares,
    hits_of,
    mean,
    mean_scores,
    predict_test_images,
    score_client,
    scores_of,
    share_hits,
)
from feddtl.messages import Payload, ServerState, Update, tensor_bytes
from feddtl.methods.base import Method
from feddtl.methods.classifier import Classifier
from feddtl.models.lora import Tensors
from feddtl.observers import RunObserver
from feddtl.records import GLOBAL_SCORES, RoundRecord, RoundScores
from feddtl.runtimes.hostile import HostileClients
from feddtl.timing import Phase, Stopwatch, since
from feddtl.training.client_data import ClientData
from feddtl.transforms.catalog import build_chain
from feddtl.transforms.chain import Chain
from feddtl.units import NUMBERED, ClientNames


@dataclass
class LatestPredictions:
    """Predictions of the latest state, so that no test image is encoded twice for it."""

    state: ServerState | None = None
    predictions: Predictions | None = None


@dataclass(frozen=True)
class RunContext:
    """The server and all clients.

    Attributes:
        method: The method.
        clients: Every client's data, in order of client id.
        sets: What is scored.
        experiment: The settings.
        observer: Receives the events.
        stopwatch: Measures the time.
        names: What the clients are called.
        latest: See `LatestPredictions`.
    """

    method: Method
    clients: Sequence[ClientData]
    sets: EvaluationSets
    experiment: Experiment
    observer: RunObserver
    stopwatch: Stopwatch
    names: ClientNames = NUMBERED
    latest: LatestPredictions = field(default_factory=LatestPredictions)

    @cached_property
    def chain(self) -> Chain:
        """The transforms of the uplink."""
        return build_chain(self.experiment.uplink)

    @cached_property
    def hostile(self) -> HostileClients:
        """The hostile clients of an experiment with an attack; else none."""
        return HostileClients(self.experiment, self.method, self.chain)

    @property
    def clients_with_all_test_images(self) -> Sequence[int]:
        """All clients where they alone have test images; else none."""
        return range(len(self.clients)) if self.sets.on_clients else ()

    def train(self, payload: Payload, clients: Sequence[int], personal: Mapping[int, Tensors]) -> list[Update]:
        """Unchecked updates of these clients; several clients are trained as a batch."""
        data, kept = [self.clients[client] for client in clients], [personal.get(c, {}) for c in clients]
        observe = self.observer.epoch_finished
        with self.stopwatch.measure("steps"):
            if len(data) > 1:
                updates = self.method.client_updates(payload, data, kept, observe)
                if all(map(is_finite, updates)):
                    return updates
            # In a batched step, one client's NaN may have reached the others, so each trains again alone.
            return [self.method.client_update(payload, *one, observe) for one in zip(data, kept, strict=True)]

    def exchange(self, update: Update, payload: Payload) -> tuple[Update, int]:
        """An update as the server receives it, and its size on the wire in bytes, without framing.

        Raises:
            ClientError: It is not finite, or a transform cannot send it.
        """
        owner = f"The update of {self.names.one(update.client)} in round {payload.round}"
        with self.stopwatch.measure("exchange"):
            for tensors in (update.weights, update.samples, update.personal):
                require_finite_tensors(
                    tensors, owner, f"Lower local.learning_rate or check that {self.names.noun}'s images"
                )
            expected = self.method.expected_update(payload)
            sent, arrived = self.chain.exchange(update, expected, payload.round, self.experiment.seed)
            return arrived, tensor_bytes(sent.weights, sent.samples)

    def scores(
        self,
        models: Mapping[int, Classifier],
        state: ServerState,
        own: Mapping[int, HitCounts] | None = None,
        measured: Mapping[int, Scores] | None = None,
    ) -> tuple[RoundScores | None, ClientHits | None]:
        """Scores of the state and of the clients' own models, and the hits of these models.

        Scores are None if the round is not scored; hits are None also if a client scored its own model itself, because
        it reports counts alone.

        Args:
            models: The clients' own models.
            state: The server's state after the round.
            own: By client, its own count of its own model's hits on its share.
            measured: By client, scores of its own model that it measured itself, for clients not in `models`.
        """
        own, measured = own or {}, measured or {}
        if not self.experiment.is_scored(state.round):
            return None, None
        with self.stopwatch.measure("evaluation"):
            everywhere: dict[int, Predictions] = {}
            scored: dict[int, Scores] = {}
            if self.experiment.scores_client_models(state.round):
                models_here = {client: model for client, model in models.items() if client not in measured}
                if self.sets.each_has_own:
                    scored = {c: count_hits(model, *self.sets.of(c)).scores for c, model in models_here.items()}
                else:
                    everywhere = {c: predict_test_images(model, self.sets) for c, model in models_here.items()}
                    scored = {client: score_client(found, self.sets, client) for client, found in everywhere.items()}
                scored |= measured
            hits = self._hits_on_shares({c: model for c, model in models.items() if c not in own}, everywhere)
            found = {client: scored[client].local for client in models if client in scored and client not in own}
            found |= {client: accuracy(right) for client, right in hits.items()}
            found |= {client: counts.scores.local for client, counts in own.items()}
            local = {client: found[client] for client in sorted(found) if not math.isnan(found[client])}
            average = mean(list(local.values()))
            models_of_clients = None
            if scored:
                of_all = mean_scores([scored[client] for client in sorted(scored)])
                models_of_clients = {name: getattr(of_all, name) for name in GLOBAL_SCORES}
            if self.sets.on_clients:
                return RoundScores(average, local, client_models=models_of_clients), None
            of_state = scores_of(self.predictions(state), self.sets, average)
            headline = (of_state.base, of_state.novel, of_state.harmonic_mean)
            scores = RoundScores(average, local, dict(of_state.domains), *headline, models_of_clients)
            return scores, None if own or measured else client_hits(hits, everywhere, self.sets)

    def _hits_on_shares(
        self, models: Mapping[int, Classifier], everywhere: Mapping[int, Predictions]
    ) -> dict[int, Tensor]:
        """By client, hits of its model on its share; a model with known predictions needs no second pass."""
        shares = self.sets.shares
        known = {
            client: hits_of(everywhere[client], self.sets)[0][shares[client]]
            for client in models
            if client in everywhere
        }
        return known | share_hits({client: model for client, model in models.items() if client not in known}, self.sets)

    def record(
        self,
        number: int,
        stage: str,
        updates: Sequence[Update],
        begun: Mapping[Phase, float],
        *,
        clients: Sequence[int],
        lost: Sequence[int],
        server: Mapping[str, float],
        bytes_up: int,
        bytes_down: int,
        virtual_seconds: float,
        scores: RoundScores | None,
        failures: Mapping[int, str] | None = None,
        shares: Mapping[int, float] | None = None,
        delays: Sequence[int] | None = None,
    ) -> RoundRecord:
        """The record of a round that ends now; the observer receives it.

        Args:
            number: Number of the round.
            stage: Stage of the round.
            updates: The updates that were used.
            begun: The stopwatch's seconds when the round began.
            clients: This argument and those below: as in `RoundRecord`.
        """
        passed = since(begun, self.stopwatch.seconds())
        record = RoundRecord(
            round=number,
            stage=stage,
            clients=clients,
            lost=lost,
            failures=failures or {},
            shares=shares or {},
            delays=delays,
            train=train_metrics(updates),
            train_by_client={update.client: dict(update.metrics) for update in updates},
            server=server,
            bytes_up=bytes_up,
            bytes_down=bytes_down,
            virtual_seconds=virtual_seconds,
            scores=scores,
            seconds={name: round(value, 3) for name, value in passed.items()},
        )
        self.observer.round_finished(record)
        return record

    def predictions(self, state: ServerState) -> Predictions:
        """The predictions of the model at a state for all test images."""
        if self.latest.predictions is None or self.latest.state is not state:
            self.latest.predictions = predict_test_images(self.method.classifier(state), self.sets)
            self.latest.state = state
        return self.latest.predictions

    def counts(self, state: ServerState, clients: Sequence[int]) -> dict[int, HitCounts]:
        """Hits of each of these clients on its share of the test images; clients with an empty share are omitted."""
        with self.stopwatch.measure("evaluation"):
            found = count_shares(self.predictions(state), self.sets)
        return {client: found[client] for client in clients if found[client].images}


def require_finite_state(state: ServerState) -> None:
    """Raise ClientError if the server's state is not finite."""
    require_finite_tensors(state.tensors, f"The server's state after round {state.round}", "Lower server.learning_rate")


def require_finite_tensors(tensors: Mapping[str, Tensor], owner: str, remedy: str) -> None:
    """Raise ClientError naming owner and tensor if any value is NaN or infinite."""
    if (name := first_not_finite(tensors)) is not None:
        raise ClientError(
            f"{owner} holds NaN or infinite values in '{name}'; the round was stopped and discarded.",
            f"{remedy}; the last checkpoint is intact.",
        )


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor with a NaN or infinite value; None where there is none."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def is_finite(update: Update) -> bool:
    """Whether an update holds neither NaN nor an infinite value."""
    return all(first_not_finite(tensors) is None for tensors in (update.weights, update.samples, update.personal))


def train_metrics(updates: Sequence[Update]) -> dict[str, float]:
    """Client metrics as means weighted by images.

    Each mean is over the updates that measured it: in asynchronous runs, a round may have updates of both stages.
    """
    names = sorted({name for update in updates for name in update.metrics})
    return {name: _weighted_mean(name, [u for u in updates if name in u.metrics]) for name in names}


def _weighted_mean(metric: str, updates: Sequence[Update]) -> float:
    total = sum(update.num_images for update in updates)
    return sum(update.metrics[metric] * update.num_images for update in updates) / total
