"""The content of `data.json` and `summary.json`: what was run, and its outcome."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from feddtl.config import Experiment
from feddtl.data.federated import FederatedData
from feddtl.data.images_per_class import ScoredCounts, few_images, scored_counts
from feddtl.evaluate import Scores, harmonic_mean
from feddtl.federated_accuracy import FederatedAccuracy
from feddtl.methods.base import TrainedParameters
from feddtl.records import Headline, RoundRecord, Summary, headline
from feddtl.runtimes.federated import federated_of, images_by_client, scored_by_clients, with_all_images
from feddtl.runtimes.hostile import attack_text
from feddtl.runtimes.rl_notes import measured_noise
from feddtl.runtimes.rounds import Progress
from feddtl.units import ClientNames


def describe_data(data: FederatedData) -> dict[str, Any]:
    """Names, sizes and class × client counts, as in `data.json`; no sizes if the images are on the clients."""
    counts = data.partition.counts(data.train.labels, len(data.base_names))
    return {
        "dataset": data.name,
        "prompt_template": data.prompt_template,
        "base_classes": list(data.base_names),
        "novel_classes": list(data.novel_names),
        "domains": list(data.domain_names),
        "train_images": None if data.on_clients else len(data.train),
        "test_base_images": None if data.on_clients else len(data.test_base),
        "test_novel_images": None if data.on_clients else len(data.test_novel),
        "images_per_client_and_class": [] if data.on_clients else counts.tolist(),
        "notes": list(data.notes),
        # Absent for test images, as in runs of earlier versions, which go on only if nothing in here has changed.
        **({} if data.scored == "test" else {"scored_images": data.scored}),
        **({"sites": list(data.sites)} if data.sites else {}),
    }


def summarise(
    experiment: Experiment,
    data: FederatedData,
    trained: TrainedParameters,
    zero_shot: Scores,
    progress: Progress,
    seconds: Mapping[str, float],
    notes: Sequence[str] = (),
    started_from: Mapping[str, Any] | None = None,
) -> Summary:
    """The summary of a finished run.

    Args:
        experiment: What was run.
        data: The images of the run.
        trained: How many numbers the method trains.
        zero_shot: Scores before training.
        progress: State and records after the last round.
        seconds: By phase; see `feddtl.timing.Phase`.
        notes: What the rounds gave reason to say.
        started_from: What it took from another run, see `feddtl.run_origin`; none if nothing.
    """
    scored = [record for record in progress.records if record.is_scored]
    start, last = headline(zero_shot.as_dict()), scored[-1] if scored else None
    best = max(_with_most_images(scored), key=_comparable, default=None)
    domains = zero_shot.domains if last is None else last.scores.domains if last.scores else {}
    client_models = last.scores.client_models if last and last.scores else None
    return Summary(
        method=experiment.method,
        stages=experiment.stages,
        dataset=data.name,
        model=experiment.model_name,
        regime=experiment.data.regime,
        partition=data.name if data.on_clients else experiment.data.partition,
        clients=experiment.data.client_count,
        seed=experiment.seed,
        rounds=progress.state.round,
        trainable_parameters=asdict(trained),
        zero_shot=_rounded(start),
        final=_rounded(last.headline if last else start),
        final_domains={name: [round(value, 4) for value in pair] for name, pair in domains.items()},
        final_domain_mean=_domain_mean(domains),
        final_client_models=_rounded(client_models) if client_models else None,
        federated={
            "before": _federated(progress.before, progress),
            "final": _federated(federated_of(progress), progress),
        },
        missing_clients=_missing_clients(progress),
        local_clients=_local_clients(last) if data.on_clients or (last and last.failures) else None,
        averaging_error=_averaging_error(progress),
        # The best round by test accuracy is only reported; nothing is selected by it.
        best_round=best.round if best else 0,
        best=_rounded(best.headline if best else start),
        seconds=round(sum(seconds.values()), 2),
        seconds_by_phase={phase: round(value, 3) for phase, value in seconds.items()},
        bytes_up=sum(record.bytes_up for record in progress.records),
        bytes_down=sum(record.bytes_down for record in progress.records),
        virtual_seconds=round(progress.virtual_seconds, 3),
        scored_on=data.scored,
        noise_std=measured_noise(progress.records),
        notes=list(notes) or None,
        sites=list(data.sites) or None,
        few_images=few_images(_scored_counts(data, progress), data.scored) or None,
        started_from=started_from or None,
        attack=attack_text(experiment, ClientNames(data.sites)) or None,
    )


def _scored_counts(data: FederatedData, progress: Progress) -> ScoredCounts:
    """Numbers of images behind the last accuracies, as the clients counted them where they alone have test images."""
    if not data.on_clients:
        return scored_counts(data)
    found = federated_of(progress)
    if found is None:
        return ScoredCounts(0, 0)
    clients = {client: counts["base_images"] for client, counts in found.counts.items()}
    return ScoredCounts(found.base_images, found.novel_images, clients, names=ClientNames(data.sites))


def _averaging_error(progress: Progress) -> float | None:
    """Of the last round that has one: in a round with one update, or none, nothing was averaged."""
    errors = [record.server["averaging_error"] for record in progress.records if "averaging_error" in record.server]
    return errors[-1] if errors else None


def _federated(found: FederatedAccuracy | None, progress: Progress) -> FederatedAccuracy | None:
    """The same with rounded accuracies, and all images that became known; None if no client scored the model."""
    if found is None:
        return None
    base, novel, both = (round(value, 4) for value in found.scores.values())
    known = images_by_client(scored_by_clients(progress))
    return replace(with_all_images(found, known), base=base, novel=novel, harmonic_mean=both)


def _missing_clients(progress: Progress) -> dict[int, list[int]] | None:
    """By client, the rounds whose model it did not score, 0 before training; None if nobody is missing."""
    known = images_by_client(scored_by_clients(progress))
    numbers = [0, *(record.round for record in progress.records)]
    missing: dict[int, list[int]] = {}
    for number, found in zip(numbers, scored_by_clients(progress), strict=True):
        for client in with_all_images(found, known).missing if found else ():
            missing.setdefault(client, []).append(number)
    return {client: missing[client] for client in sorted(missing)} or None


def _local_clients(last: RoundRecord | None) -> list[int]:
    """Clients behind the local accuracy of a round."""
    return sorted(last.scores.local_by_client) if last and last.scores else []


def _with_most_images(scored: Sequence[RoundRecord]) -> list[RoundRecord]:
    """The rounds that can be compared: where the clients score the model, those that most images are behind."""
    images = [found.base_images + found.novel_images if (found := record.federated) else 0 for record in scored]
    by_clients = [record.scores is None or record.scores.base is None for record in scored]
    most = max((count for count, clients in zip(images, by_clients, strict=True) if clients), default=0)
    pairs = zip(scored, images, by_clients, strict=True)
    return [record for record, count, clients in pairs if not clients or count == most]


def _domain_mean(domains: Mapping[str, tuple[float, float]]) -> Headline | None:
    """Base and novel as unweighted means over domains; None if there is one domain."""
    if not domains:
        return None
    base, novel = (sum(pair[index] for pair in domains.values()) / len(domains) for index in (0, 1))
    return _rounded({"base": base, "novel": novel, "harmonic_mean": harmonic_mean(base, novel)})


def _comparable(record: RoundRecord) -> float:
    """The harmonic mean, or base accuracy if there is no novel image; -inf for a round that was not scored."""
    found = record.headline
    return next((value for key in ("harmonic_mean", "base") if (value := found[key]) is not None), -math.inf)


def _rounded(scores: Headline) -> dict[str, float | None]:
    return {name: None if value is None or math.isnan(value) else round(value, 4) for name, value in scores.items()}
