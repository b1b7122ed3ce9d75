"""The cells of a comparison: an experiment, a seed and a run folder each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from feddtl.comparison.files import Failure
from feddtl.config import Experiment
from feddtl.errors import ConfigError
from feddtl.results.run import RunResult

RUNS = "runs"


@dataclass(frozen=True)
class Cell:
    """An experiment with its seed, the experiment's name and the run folder.

    `tried` has the settings, by dotted key, that a run on held-back training images tries; empty for a run of the
    comparison itself.
    """

    name: str
    experiment: Experiment
    folder: Path
    tried: tuple[tuple[str, Any], ...] = ()

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.experiment.seed


Results = Mapping[Cell, RunResult | Failure]


def cells_of(experiments: Mapping[str, Experiment], seeds: Sequence[int], output: Path) -> tuple[Cell, ...]:
    """All cells, seed by seed, so that an unfinished comparison already compares every experiment.

    Raises:
        ConfigError: There are none, a seed is named twice or out of range.
    """
    if not experiments:
        raise ConfigError("There is no experiment to compare.", "Pass one or more experiment files.")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds = {tuple(seeds)!r} is out of range.", "Allowed: one or more, each once.")
    return tuple(
        Cell(name, replace(experiment, seed=seed), output / RUNS / f"{name}-seed{seed}")
        for seed in seeds
        for name, experiment in experiments.items()
    )
