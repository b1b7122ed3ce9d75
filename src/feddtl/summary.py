"""The outcome of a run as plain values: what `data.json` and `summary.json` hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from feddtl.config import Experiment
from feddtl.data.federated import FederatedData
from feddtl.evaluate import Scores, harmonic_mean
from feddtl.methods.base import TrainedParameters
from feddtl.runtimes.rounds import Progress

Summary = dict[str, Any]


def describe_data(data: FederatedData) -> dict[str, Any]:
    """Names, sizes and the class × client counts, as kept in `data.json`; no sizes where clients have the images."""
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
    }


def summarise(
    experiment: Experiment,
    data: FederatedData,
    trained: TrainedParameters,
    zero_shot: Scores,
    progress: Progress,
    seconds: Mapping[str, float],
) -> Summary:
    """The content of `summary.json`; accuracies in percent, null where there was nothing to score.

    Args:
        experiment: What was run.
        data: On what.
        trained: How many numbers the method trains.
        zero_shot: Scores before training.
        progress: Where it ended.
        seconds: By phase; see `feddtl.timing.Phase`.
    """
    scored = [record for record in progress.records if "base" in record]
    final: dict[str, Any] = scored[-1] if scored else {**zero_shot.as_dict(), "domains": dict(zero_shot.domains)}
    best = max(scored, key=_comparable, default=final)
    headline = ("local", "base", "novel", "harmonic_mean")
    return {
        "method": experiment.method,
        "stages": experiment.schedule.stages,
        "dataset": data.name,
        "model": experiment.model,
        "regime": experiment.data.regime,
        "partition": data.name if data.on_clients else experiment.data.partition,
        "clients": experiment.data.clients,
        "seed": experiment.seed,
        "rounds": progress.state.round,
        "trainable_parameters": asdict(trained),
        "zero_shot": _finite(zero_shot.as_dict()),
        "final": _finite({key: final[key] for key in headline}),
        "final_domains": {name: [round(value, 4) for value in pair] for name, pair in final["domains"].items()},
        "final_domain_mean": _domain_mean(final["domains"]),
        "final_client_models": _finite(final.get("client_models") or {}) or None,
        "federated": {
            "before": _federated(progress.before),
            "final": _federated(progress.records[-1].get("federated", {}) if progress.records else progress.before),
        },
        # The best round on test images is shown, named as such; nothing is chosen by it.
        "best_round": best.get("round", 0),
        "best": _finite({key: best[key] for key in headline}),
        "seconds": round(sum(seconds.values()), 2),
        "seconds_by_phase": {phase: round(value, 3) for phase, value in seconds.items()},
        "bytes_up": sum(record["bytes_up"] for record in progress.records),
        "bytes_down": sum(record["bytes_down"] for record in progress.records),
        "virtual_seconds": round(progress.virtual_seconds, 3),
    }


def _federated(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Accuracies rounded as all others; None where no client counted."""
    accuracies = ("base", "novel", "harmonic_mean")
    return {**found, **_finite({key: found[key] for key in accuracies})} if found else None


def _domain_mean(domains: Mapping[str, tuple[float, float]]) -> dict[str, float | None] | None:
    """Base and novel as means over domains, each domain counting alike; None where there is one domain."""
    if not domains:
        return None
    base, novel = (sum(pair[index] for pair in domains.values()) / len(domains) for index in (0, 1))
    return _finite({"base": base, "novel": novel, "harmonic_mean": harmonic_mean(base, novel)})


def _comparable(record: Mapping[str, Any]) -> float:
    """HM, or base accuracy where there is no novel image; no round that nobody scored is the best."""
    values = [record[key] for key in ("harmonic_mean", "base") if not math.isnan(record[key])]
    return float(values[0]) if values else -math.inf


def _finite(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if value is None or math.isnan(value) else round(value, 4) for name, value in scores.items()}
