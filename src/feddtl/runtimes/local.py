"""All parties in one process: the reference semantics that every other runtime must match."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from feddtl.algorithms.base import Aggregate, Algorithm, ClientData, Payload, ServerState, Update, tensor_bytes
from feddtl.algorithms.zeroshot import zero_shot_classifier
from feddtl.config import Experiment
from feddtl.errors import ClientError
from feddtl.evaluate import (
    EvaluationSets,
    Predictions,
    Scores,
    mean_scores,
    predict_test_images,
    score_global,
    score_local,
    score_shares,
    scores_of,
)
from feddtl.models.lora import Tensors
from feddtl.seeding import numpy_generator
from feddtl.timing import Stopwatch, since

Record = dict[str, Any]


class RoundObserver:
    """Told what happens; the default watches nothing."""

    def round_started(self, round_number: int, stage: str, clients: Sequence[int]) -> None:
        """A round begins with these clients."""

    def epoch_finished(self, client: int, epoch: int, epochs: int) -> None:
        """A client finished a local epoch."""

    def client_finished(self, client: int) -> None:
        """A client's update arrived."""

    def round_finished(self, record: Record) -> None:
        """The round is aggregated and scored."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a round: enough to go on as if never interrupted.

    Attributes:
        state: The server's state.
        personal: What each client keeps, by client id.
        records: One record per round done.
    """

    state: ServerState
    personal: Mapping[int, Tensors] = field(default_factory=dict)
    records: tuple[Record, ...] = ()


class LocalRuntime:
    """Runs rounds of an algorithm over in-process clients.

    Args:
        algorithm: The method.
        clients: Every client's data, in order of client id.
        sets: What is scored.
        experiment: Rounds, participation, evaluation and seed.
        observer: Told what happens.
        stopwatch: Counts the time; a new one by default.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        clients: Sequence[ClientData],
        sets: EvaluationSets,
        experiment: Experiment,
        observer: RoundObserver | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self._algorithm = algorithm
        self._clients = clients
        self._sets = sets
        self._experiment = experiment
        self._observer = observer or RoundObserver()
        self._stopwatch = stopwatch or Stopwatch()

    def run(self, start: Progress, after_round: Callable[[Progress], None] = lambda progress: None) -> Progress:
        """Run the remaining rounds; `after_round` is where a caller saves a checkpoint."""
        progress = start
        while progress.state.round < self._experiment.rounds:
            progress = self._round(progress)
            after_round(progress)
        return progress

    def score_before_training(self) -> tuple[Scores, Predictions]:
        """Scores and predictions of zero-shot CLIP; `local` is its mean accuracy on the clients' shares."""
        classifier = zero_shot_classifier(self._algorithm.task, self._algorithm.first_image_block)
        with self._stopwatch.measure("evaluation"):
            predictions = predict_test_images(classifier, self._sets)
            local = mean(list(score_shares(predictions, self._sets).values()))
            return scores_of(predictions, self._sets, local), predictions

    def _round(self, progress: Progress) -> Progress:
        begun = self._stopwatch.seconds()
        state, number = progress.state, progress.state.round + 1
        chosen = choose_clients(len(self._clients), self._experiment.participation, self._experiment.seed, number)
        stage = self._algorithm.stage(number)
        self._observer.round_started(number, stage, chosen)
        with self._stopwatch.measure("exchange"):
            payload = self._algorithm.broadcast(state)
        updates = self._client_updates(payload, chosen, progress.personal)
        with self._stopwatch.measure("server"):
            aggregate = self._algorithm.aggregate(state, updates)
        require_finite_tensors(
            aggregate.state.tensors, f"The server's state after round {number}", "Lower server.learning_rate"
        )
        with self._stopwatch.measure("evaluation"):
            scores = self._scores(state, updates, aggregate)
        record: Record = {
            "round": number,
            "stage": stage,
            "clients": chosen,
            **_metrics(updates, aggregate),
            "bytes_up": sum(tensor_bytes(update.weights, update.samples) for update in updates),
            "bytes_down": tensor_bytes(payload.tensors) * len(updates),
            **scores,
            "seconds": {name: round(value, 3) for name, value in since(begun, self._stopwatch.seconds()).items()},
        }
        self._observer.round_finished(record)
        personal = {**progress.personal, **{update.client: update.personal for update in updates if update.personal}}
        return Progress(aggregate.state, personal, (*progress.records, record))

    def _client_updates(self, payload: Payload, chosen: Sequence[int], personal: Mapping[int, Tensors]) -> list[Update]:
        """Updates of the chosen clients, as many at once as the method and the device take."""
        together = self._experiment.compute.clients_together or self._algorithm.clients_together
        updates: list[Update] = []
        for start in range(0, len(chosen), together):
            clients = chosen[start : start + together]
            data, kept = [self._clients[client] for client in clients], [personal.get(c, {}) for c in clients]
            with self._stopwatch.measure("steps"):
                found = self._train(payload, data, kept)
            with self._stopwatch.measure("exchange"):
                for update in found:
                    self._check(update, payload.round)
            updates += found
        return updates

    def _train(self, payload: Payload, data: Sequence[ClientData], kept: Sequence[Tensors]) -> list[Update]:
        observe = self._observer.epoch_finished
        if len(data) > 1:
            updates = self._algorithm.client_updates(payload, data, kept, observe)
            if all(map(is_finite, updates)):
                return updates
        # One client's NaN may have reached the others of a batched step: alone, each answers for itself.
        return [self._algorithm.client_update(payload, *one, observe) for one in zip(data, kept, strict=True)]

    def _check(self, update: Update, round_number: int) -> None:
        """Raise ClientError if an update is not finite; otherwise it has arrived."""
        for tensors in (update.weights, update.samples, update.personal):
            require_finite_tensors(
                tensors,
                f"The update of client {update.client} in round {round_number}",
                "Lower local.learning_rate or check that client's images",
            )
        self._observer.client_finished(update.client)

    def _scores(self, state: ServerState, updates: Sequence[Update], aggregate: Aggregate) -> Record:
        settings, number = self._experiment.evaluation, aggregate.state.round
        last = number == self._experiment.rounds
        if number % settings.every and not last:
            return {}
        models = {update.client: self._algorithm.classifier(state, update) for update in updates}
        local = score_local(models, self._sets)
        scores = score_global(self._algorithm.classifier(aggregate.state), self._sets, mean(list(local.values())))
        record: Record = {**scores.as_dict(), "local_by_client": local, "domains": dict(scores.domains)}
        if settings.client_models == "every" or (settings.client_models == "last" and last):
            own = mean_scores([score_global(models[client], self._sets, 0.0) for client in sorted(models)])
            record["client_models"] = {"base": own.base, "novel": own.novel, "harmonic_mean": own.harmonic_mean}
        return record


def choose_clients(clients: int, participation: float, seed: int, round_number: int) -> list[int]:
    """Sorted ids of the clients of a round: a uniform sample of ⌈participation · K⌉ of them."""
    # Rounded first: 0.07 · 100 is 7.000000000000001 in binary floating point.
    count = max(1, math.ceil(round(participation * clients, 9)))
    generator = numpy_generator(seed, "participation", round_number)
    return sorted(int(client) for client in generator.choice(clients, size=count, replace=False))


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


def _metrics(updates: Sequence[Update], aggregate: Aggregate) -> Record:
    """Client metrics as means weighted by images, with every client's own value; server metrics as they are."""
    total = sum(update.num_images for update in updates)
    names = sorted({name for update in updates for name in update.metrics})
    return {
        "train": {n: sum(u.metrics[n] * u.num_images for u in updates) / total for n in names},
        "train_by_client": {u.client: dict(u.metrics) for u in updates},
        "server": dict(aggregate.metrics),
    }
