"""One run as plain values, from its folder or from a results file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feddtl.config import Experiment
from feddtl.config.running import SCORED_IMAGES
from feddtl.errors import RunError
from feddtl.experiment_file import experiment_to_dict
from feddtl.records import Headline, RoundRecord, Summary
from feddtl.results.labels import without_paths
from feddtl.run_files import experiment_of_run
from feddtl.units import ClientNames, printable

if TYPE_CHECKING:
    from feddtl.predictions import ImagePredictions
    from feddtl.results.hits import RunHits


@dataclass(frozen=True)
class RunResult:
    """One run.

    Attributes:
        name: In a comparison, the name of the experiment; in a report, the folder relative to the one searched.
        experiment: All settings, including the seed.
        summary: The outcome; None for a run that is not finished.
        environment: See environment.json.
        data: See data.json; empty for a run from a results file.
        records: One for each finished round; empty for a run from a results file.
        predictions: The predicted class of each test image; None if they were not kept.
        hits: Which test images the models of a finished run classify correctly; None if that is not known.
        base_model: `Backbone.identity` of its model; empty for a run from a results file or of an earlier version.
    """

    name: str
    experiment: Experiment
    summary: Summary | None
    environment: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    records: tuple[RoundRecord, ...] = ()
    predictions: ImagePredictions | None = None
    hits: RunHits | None = field(default=None, compare=False, repr=False)
    base_model: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.experiment.seed

    @property
    def finished(self) -> Summary:
        """The outcome of a finished run; raises ValueError for any other."""
        if self.summary is None:
            raise ValueError(f"{self.name} is not finished")
        return self.summary

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self.data["dataset"]) if self.data else self.finished.dataset

    @property
    def scored(self) -> str:
        """What its accuracies are measured on, in words."""
        return SCORED_IMAGES[self.experiment.evaluation.images]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Base class names, then novel ones, printable."""
        return tuple(map(printable, (*self.data["base_classes"], *self.data["novel_classes"])))

    @property
    def client_names(self) -> ClientNames:
        """What its clients are called, printable."""
        return ClientNames(tuple(map(printable, self.data.get("sites", ()))))

    @property
    def base_classes(self) -> int:
        """Number of base classes."""
        return len(self.data["base_classes"])

    @property
    def last_scored(self) -> RoundRecord | None:
        """The record of the last round that was scored; None before it."""
        return next((record for record in reversed(self.records) if record.is_scored), None)

    @property
    def final(self) -> Headline:
        """Headline scores after the last round, or after the last scored one of an unfinished run; else empty."""
        if self.summary:
            return self.summary.final
        return self.last_scored.headline if self.last_scored else {}

    @property
    def client_models(self) -> Headline:
        """Final scores of the clients' own models, mean over the clients; empty where they were not scored."""
        return (self.summary.final_client_models if self.summary else None) or {}

    @property
    def seconds(self) -> Mapping[str, float]:
        """By phase; of an unfinished run those of its rounds alone."""
        if self.summary:
            return dict(self.summary.seconds_by_phase or {})
        phases = dict.fromkeys(phase for record in self.records for phase in record.seconds)
        return {phase: sum(record.seconds.get(phase, 0.0) for record in self.records) for phase in phases}

    def sent(self, direction: str) -> int:
        """Bytes over all rounds; 'bytes_up' or 'bytes_down'."""
        return sum(int(getattr(record, direction)) for record in self.records)

    def with_short_paths(self, text: str) -> str:
        """A note or an error about the run's data, with the names of folders instead of their paths."""
        return printable(without_paths(text, (self.experiment.data.root, self.experiment.data.source)))

    def to_record(self, environment: Mapping[str, Any]) -> dict[str, Any]:
        """Summary, name and settings of a finished run, and its environment if it is not the file's `environment`."""
        record = {**self.finished.to_dict(), "experiment": self.name, "config": experiment_to_dict(self.experiment)}
        return record if self.environment == environment else {**record, "environment": self.environment}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], environment: Mapping[str, Any]) -> RunResult:
        """The run that `to_record` described in a file with this environment. Raises RunError if something is missing.

        Files written before there was `feddtl compare` have no `config`; what their summaries lack is at its default.
        """
        try:
            summary = Summary.from_dict(record, "A record")
            config = record["config"] if "config" in record else _config_of_summary(summary)
            # Files written before there was `feddtl compare` name the experiment's file; a label may contain dots.
            name = Path(str(record["experiment"])).name.removesuffix(".toml")
            return cls(name, experiment_of_run(config), summary, record.get("environment", environment))
        except KeyError as error:
            raise RunError(
                f"A record has no {error}, so it is not a run's summary.",
                "Pass a comparison.json, or a file from results/.",
            ) from None


def _config_of_summary(summary: Summary) -> dict[str, Any]:
    data = {key: getattr(summary, key) for key in ("regime", "partition", "clients")}
    return {
        **{key: getattr(summary, key) for key in ("method", "model", "seed")},
        "rounds": max(1, summary.rounds),  # zero-shot has none
        "data": {"source": summary.dataset, **data},
        "schedule": {"stages": summary.stages},
    }
