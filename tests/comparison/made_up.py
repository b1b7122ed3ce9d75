"""Finished runs with made-up numbers: no run, no model, no image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from results.made_hits import run_hits_of

from feddtl.config import DataConfig, Experiment, ScheduleConfig
from feddtl.dotted import with_values
from feddtl.experiment_file import experiment_from_dict, experiment_to_dict
from feddtl.records import Summary
from feddtl.results.hits import RunHits
from feddtl.results.run import RunResult


def scores(base: float | None, novel: float | None, local: float = 50.0) -> dict[str, float | None]:
    """With the harmonic mean that follows; None where it cannot."""
    harmonic = None if base is None or novel is None else 2 * base * novel / (base + novel)
    return {"local": local, "base": base, "novel": novel, "harmonic_mean": harmonic}


def outcome(
    name: str,
    seed: int,
    base: float | None,
    novel: float | None,
    *,
    method: str = "feddtl",
    stages: Any = "auto",
    dataset: str = "shapes",
    rounds: int = 20,
    data: DataConfig | None = None,
    hits: RunHits | None = None,
    **more: Any,
) -> RunResult:
    """A finished run, with the hits of its test images if given; `more` is added to its summary."""
    experiment = Experiment(
        method=method,
        seed=seed,
        rounds=rounds,
        schedule=ScheduleConfig(stages=stages),
        data=replace(data or DataConfig(), source=dataset),
    )
    values = {
        "method": method,
        "stages": experiment.stages,
        "dataset": dataset,
        "model": experiment.model,
        "regime": experiment.data.regime,
        "partition": experiment.data.partition,
        "clients": experiment.data.client_count,
        "seed": seed,
        "rounds": rounds if method != "zero-shot" else 0,
        "zero_shot": scores(40.0 + seed, 60.0),
        "final": scores(base, novel),
        "final_domains": {},
        "final_domain_mean": None,
        "final_client_models": None,
        "best_round": rounds,
        "best": scores(base, novel),
        "seconds": 10.0,
        "bytes_up": 2_500_000,
        "bytes_down": 1_000_000,
        **more,
    }
    return RunResult(name, experiment, Summary.from_dict(values), {"python": "3.11"}, hits=hits)


def by_seed(name: str, *harmonic_means: float, **more: Any) -> list[RunResult]:
    """Runs with seeds 0, 1, … whose base, novel and harmonic mean are the same number."""
    return [outcome(name, seed, value, value, **more) for seed, value in enumerate(harmonic_means)]


def with_settings(run: RunResult, **changes: Any) -> RunResult:
    """The run with other settings; `__` stands for the dot of a key."""
    values = {key.replace("__", "."): value for key, value in changes.items()}
    experiment = experiment_from_dict(with_values(experiment_to_dict(run.experiment), values))
    return replace(run, experiment=experiment)


def with_hits(name: str, *harmonic_means: float, **more: Any) -> list[RunResult]:
    """The same with hits at random places of 200 test images, and with 40 % right before training."""
    return [
        outcome(
            name,
            seed,
            value,
            value,
            hits=run_hits_of(value, seed=seed),
            zero_shot=scores(40.0, 40.0),
            final_client_models={"base": value, "novel": value, "harmonic_mean": value},
            **more,
        )
        for seed, value in enumerate(harmonic_means)
    ]
