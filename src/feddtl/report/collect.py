"""Run folders as plain values, wherever below a folder they lie."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from feddtl.config import Experiment
from feddtl.errors import RunError
from feddtl.labels import without_paths
from feddtl.predictions import ImagePredictions
from feddtl.records import Headline, RoundRecord, Summary
from feddtl.run_files import CONFIG, DATA, SUMMARY
from feddtl.runs import RunFolder

# As `feddtl compare` and a loop over seeds nest them, with room for a folder per data set.
DEEPEST = 3
REPLACEMENT = "�"
FIELDS_OF_DATA = (
    "dataset",
    "base_classes",
    "novel_classes",
    "domains",
    "train_images",
    "test_base_images",
    "test_novel_images",
    "images_per_client_and_class",
)


@dataclass(frozen=True)
class Run:
    """What a run folder says.

    Attributes:
        name: The folder, relative to where it was looked for.
        experiment: What was asked.
        data: See data.json.
        environment: See environment.json.
        records: One per finished round.
        summary: The outcome; None for a run that is not finished.
        predictions: What every test image was taken for; None where none are kept.
    """

    name: str
    experiment: Experiment
    data: Mapping[str, Any]
    environment: Mapping[str, Any]
    records: tuple[RoundRecord, ...]
    summary: Summary | None
    predictions: ImagePredictions | None

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self.data["dataset"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Base class names, then novel ones, as they can be shown."""
        return tuple(map(printable, (*self.data["base_classes"], *self.data["novel_classes"])))

    @property
    def base_classes(self) -> int:
        """How many of the class names are base classes."""
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
    def seconds(self) -> Mapping[str, float]:
        """By phase; of an unfinished run those of its rounds alone."""
        if self.summary:
            return dict(self.summary.seconds_by_phase or {})
        phases = dict.fromkeys(phase for record in self.records for phase in record.seconds)
        return {phase: sum(record.seconds.get(phase, 0.0) for record in self.records) for phase in phases}

    def told(self, text: str) -> str:
        """A note or an error about the run's data as a page shows it: folders by their names alone."""
        return printable(without_paths(text, (self.experiment.data.root, self.experiment.data.source)))

    def sent(self, direction: str) -> int:
        """Bytes over all rounds; 'bytes_up' or 'bytes_down'."""
        return sum(int(getattr(record, direction)) for record in self.records)


@dataclass(frozen=True)
class Collection:
    """The runs of a folder.

    Attributes:
        runs: In order of their names.
        problems: What could not be read, one text each.
    """

    runs: tuple[Run, ...]
    problems: tuple[str, ...]


def collect(folder: Path) -> Collection:
    """Read the run in a folder, or all runs up to three folders below it.

    Raises:
        RunError: There is no run, or none that can be read.
    """
    if not folder.is_dir():
        raise RunError(f"There is no folder {folder}.", "Give the folder of a run, or one that holds run folders.")
    paths = list(run_folders(folder))
    if not paths:
        raise RunError(
            f"There is no run in {folder}, nor up to {DEEPEST} folders below it.",
            f"Give the --output folder of an earlier run (it has a {CONFIG}), or one that holds such folders.",
        )
    runs, problems, first = [], [], None
    for path in paths:
        try:
            run, damage = read_run(path, _name(path, folder))
            runs.append(run)
            problems += [_shortened(error, path, folder) for error in damage]
        except RunError as error:
            first = first or error
            problems.append(f"{_name(path, folder)} is left out. {_shortened(error, path, folder)}")
    if not runs and first:
        raise first
    return Collection(tuple(runs), tuple(map(printable, problems)))


def run_folders(folder: Path, depth: int = DEEPEST) -> Iterator[Path]:
    """Folders with a config.json and a data.json, or an experiment's config.json alone, sorted by name.

    Raises:
        RunError: A folder cannot be read.
    """
    if (folder / CONFIG).is_file() and (RunFolder(folder).has_begun or _is_announced(folder)):
        yield folder
        return
    if depth:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise RunError(f"Cannot read {folder}: {error.strerror}.", "Check your rights to it.") from None
        for entry in entries:
            if entry.is_dir() and not entry.name.startswith("."):
                yield from run_folders(Path(entry.path), depth - 1)


def read_run(path: Path, name: str) -> tuple[Run, list[RunError]]:
    """A run that began, and what of it is damaged that a page can do without: the predictions.

    Raises:
        RunError: It did not begin, or a file is damaged that a page cannot do without.
    """
    folder = RunFolder.open(path)
    run = Run(name, folder.experiment, folder.data, folder.environment, folder.records, folder.summary, None)
    _require_fields(run, path)
    try:
        return replace(run, predictions=folder.predictions), []
    except RunError as error:
        return run, [error]


def printable(text: str) -> str:
    """The text without characters that a page cannot hold, such as half a surrogate pair of a folder's name."""
    return "".join(letter if letter.isprintable() else REPLACEMENT for letter in text)


def common_rounds(runs: Sequence[Run], key: str, table: str = "headline") -> dict[int, list[float]]:
    """The value of a record in every run, for the rounds in which all runs that have it at all have it.

    Args:
        runs: Of one method.
        key: What was measured.
        table: Table of the record that holds it: 'headline' or 'train'.
    """
    by_run = []
    for run in runs:
        found = {record.round: getattr(record, table).get(key) for record in run.records}
        by_run.append({n: value for n, value in found.items() if value is not None and not math.isnan(value)})
    known = [values for values in by_run if values]
    shared = set(known[0]).intersection(*known[1:]) if known else set()
    return {number: [values[number] for values in known] for number in sorted(shared)}


def _require_fields(run: Run, path: Path) -> None:
    """Raise RunError where a file is valid JSON without what every run has."""
    missing = {DATA: [key for key in FIELDS_OF_DATA if key not in run.data]}
    if run.summary and run.summary.seconds_by_phase is None:
        missing[SUMMARY] = ["seconds_by_phase"]
    for name, keys in missing.items():
        if keys:
            raise RunError(
                f"{path / name} has no {', '.join(keys)}: it is damaged, or of another version.",
                "Use that version, or start a new run with another --output.",
            )


def _is_announced(folder: Path) -> bool:
    """Whether a config.json without a data.json beside it is an experiment's, and not, say, a model's."""
    try:
        _ = RunFolder(folder).experiment
    except RunError:
        return False
    return True


def _shortened(error: RunError, path: Path, folder: Path) -> str:
    """The message with the run's name in place of its path, which says nothing on another machine."""
    return error.message.replace(str(path), _name(path, folder))


def _name(path: Path, folder: Path) -> str:
    return printable(path.name or str(path)) if path == folder else printable(path.relative_to(folder).as_posix())
