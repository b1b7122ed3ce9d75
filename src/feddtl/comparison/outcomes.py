"""What came out of the cells of a comparison: a finished run, or a failure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feddtl.config import Experiment
from feddtl.errors import RunError
from feddtl.experiment_file import experiment_from_dict, experiment_to_dict
from feddtl.records import Summary


@dataclass(frozen=True)
class Outcome:
    """A finished cell.

    Attributes:
        name: Name of the experiment: its file's, without the ending.
        experiment: Every setting of the run, the seed included.
        summary: What the run came to.
        environment: The content of the run's `environment.json`.
    """

    name: str
    experiment: Experiment
    summary: Summary
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.experiment.seed

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.summary.dataset

    def as_record(self) -> dict[str, Any]:
        """The summary with the experiment's name and settings, as kept in `comparison.json`."""
        return {**self.summary.to_dict(), "experiment": self.name, "config": experiment_to_dict(self.experiment)}


@dataclass(frozen=True)
class Failure:
    """A cell that could not be run; the rest of the comparison does without it.

    Attributes:
        name: Name of the experiment.
        seed: Its seed.
        message: What is wrong.
        hint: What to do about it; may be empty.
    """

    name: str
    seed: int
    message: str
    hint: str = ""


def outcome_of(record: Mapping[str, Any], environment: Mapping[str, Any]) -> Outcome:
    """The outcome that a record of a results file describes.

    Args:
        record: As `Outcome.as_record` gives it. Without `config`, as in files written before there was
            `feddtl compare`, what the summary does not say is at its default.
        environment: Of the file; a record's own comes first.

    Raises:
        RunError: Something is missing.
    """
    try:
        summary = Summary.from_dict(record, "A record")
        config = record["config"] if "config" in record else _config_of_summary(summary)
        # Files written before there was `feddtl compare` name the experiment's file; a label may hold dots.
        name = Path(record["experiment"]).name.removesuffix(".toml")
        return Outcome(name, experiment_from_dict(config), summary, record.get("environment", environment))
    except KeyError as error:
        raise RunError(
            f"A record has no {error} and is no summary of a run.", "Give a comparison.json, or a file of results/."
        ) from None


def _config_of_summary(summary: Summary) -> dict[str, Any]:
    data = {key: getattr(summary, key) for key in ("regime", "partition", "clients")}
    return {
        **{key: getattr(summary, key) for key in ("method", "model", "seed")},
        "rounds": max(1, summary.rounds),  # zero-shot has none
        "data": {"source": summary.dataset, **data},
        "schedule": {"stages": summary.stages},
    }
