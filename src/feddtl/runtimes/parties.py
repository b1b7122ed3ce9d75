"""What runs in one process, whatever the order of rounds: training, checks, scoring."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from feddtl.algorithms.base import Algorithm, Classifier, ClientData, Payload, ServerState, Update
from feddtl.config import Experiment
from feddtl.errors import ClientError
from feddtl.evaluate import EvaluationSets, Scores, mean_scores, score_global, score_local
from feddtl.models.lora import Tensors
from feddtl.runtimes.rounds import Record, RoundObserver
from feddtl.timing import Stopwatch


@dataclass(frozen=True)
class Parties:
    """The server and all clients.

    Attributes:
        algorithm: The method.
        clients: Every client's data, in order of client id.
        sets: What is scored.
        experiment: The settings.
        observer: Told what happens.
        stopwatch: Counts the time.
    """

    algorithm: Algorithm
    clients: Sequence[ClientData]
    sets: EvaluationSets
    experiment: Experiment
    observer: RoundObserver
    stopwatch: Stopwatch

    def train(self, payload: Payload, clients: Sequence[int], personal: Mapping[int, Tensors]) -> list[Update]:
        """Updates of these clients, their steps together where there are several; not yet checked."""
        data, kept = [self.clients[client] for client in clients], [personal.get(c, {}) for c in clients]
        with self.stopwatch.measure("steps"):
            return self._updates(payload, data, kept)

    def require_finite(self, update: Update, round_number: int) -> None:
        """Raise ClientError naming the client if its update is not finite."""
        with self.stopwatch.measure("exchange"):
            for tensors in (update.weights, update.samples, update.personal):
                require_finite_tensors(
                    tensors,
                    f"The update of client {update.client} in round {round_number}",
                    "Lower local.learning_rate or check that client's images",
                )

    def _updates(self, payload: Payload, data: Sequence[ClientData], kept: Sequence[Tensors]) -> list[Update]:
        observe = self.observer.epoch_finished
        if len(data) > 1:
            updates = self.algorithm.client_updates(payload, data, kept, observe)
            if all(map(is_finite, updates)):
                return updates
        # One client's NaN may have reached the others of a batched step: alone, each answers for itself.
        return [self.algorithm.client_update(payload, *one, observe) for one in zip(data, kept, strict=True)]

    def scores(
        self, models: Mapping[int, Classifier], state: ServerState, measured: Mapping[int, Scores] | None = None
    ) -> Record:
        """Scores of the state, and of the clients' own models, where its round is one that is scored.

        Args:
            models: By client, its own model.
            state: The server's, after the round.
            measured: By client, scores of its own model that it measured itself, where `models` has none.
        """
        measured = measured or {}
        if not self.experiment.is_scored(state.round):
            return {}
        with self.stopwatch.measure("evaluation"):
            found = {**score_local(models, self.sets), **{client: own.local for client, own in measured.items()}}
            local = {client: found[client] for client in sorted(found) if not math.isnan(found[client])}
            scores = score_global(self.algorithm.classifier(state), self.sets, mean(list(local.values())))
            record: Record = {**scores.as_dict(), "local_by_client": local, "domains": dict(scores.domains)}
            clients = sorted({*models, *measured})
            if clients and self.experiment.scores_client_models(state.round):
                each = [measured.get(client) or score_global(models[client], self.sets, 0.0) for client in clients]
                own = mean_scores(each)
                record["client_models"] = {"base": own.base, "novel": own.novel, "harmonic_mean": own.harmonic_mean}
        return record


def require_finite_state(state: ServerState) -> None:
    """Raise ClientError if the server's state is not finite."""
    require_finite_tensors(state.tensors, f"The server's state after round {state.round}", "Lower server.learning_rate")


def require_finite_tensors(tensors: Mapping[str, Tensor], owner: str, remedy: str) -> None:
    """Raise ClientError naming owner and tensor if any value is NaN or infinite."""
    if (name := first_not_finite(tensors)) is not None:
        raise ClientError(
            f"{owner} holds NaN or infinite values in '{name}'; the round stopped and nothing of it was kept.",
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


def mean(values: Sequence[float]) -> float:
    """Mean of finite values; NaN for none."""
    kept = [value for value in values if not math.isnan(value)]
    return sum(kept) / len(kept) if kept else float("nan")


def train_metrics(updates: Sequence[Update]) -> Record:
    """Client metrics as means weighted by images, and every client's own; of several updates of one, the last.

    Each mean is over the updates that measured it: without lockstep, updates of both stages may meet in a round.
    """
    names = sorted({name for update in updates for name in update.metrics})
    return {
        "train": {name: _weighted_mean(name, [u for u in updates if name in u.metrics]) for name in names},
        "train_by_client": {update.client: dict(update.metrics) for update in updates},
    }


def _weighted_mean(metric: str, updates: Sequence[Update]) -> float:
    total = sum(update.num_images for update in updates)
    return sum(update.metrics[metric] * update.num_images for update in updates) / total
