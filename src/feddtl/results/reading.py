"""Run folders below a folder, read as plain values."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from feddtl.errors import RunError
from feddtl.records import require_keys
from feddtl.results.hits import run_hits
from feddtl.results.run import RunResult
from feddtl.run_files import CONFIG, DATA, SUMMARY, is_experiment
from feddtl.run_origin import different_parts, recorded_model
from feddtl.runs import RunFolder
from feddtl.units import printable

# Deep enough for the folders of `feddtl compare` and of a loop over seeds, inside a folder for each data set.
DEEPEST = 3
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
class Collection:
    """The runs of a folder in order of their names, and a text for each problem of reading one."""

    runs: tuple[RunResult, ...]
    problems: tuple[str, ...]


def collect(folder: Path, *, leave_out: Sequence[Path] = ()) -> Collection:
    """Read the run in a folder, or all runs up to three folders below it, but for those left out.

    Raises:
        RunError: There is no run, or none that can be read, or two were made from different models of one name.
    """
    if not folder.is_dir():
        raise RunError(
            f"There is no folder {folder}.", "Pass the folder of a run, or a folder that contains run folders."
        )
    paths = [path for path in run_folders(folder) if path not in leave_out]
    if not paths:
        raise RunError(
            f"There is no run in {folder}, nor up to {DEEPEST} folders below it.",
            f"Pass the --output folder of an earlier run (it contains {CONFIG}), or a folder of such folders.",
        )
    runs, problems, first = [], [], None
    for path in paths:
        try:
            run, damage = read_run(path, _name(path, folder))
            runs.append(run)
            problems += [_shortened(error, path, folder) for error in damage]
        except RunError as error:
            first = first or error
            problems.append(f"{_name(path, folder)} is skipped. {_shortened(error, path, folder)}")
    if not runs and first:
        raise first
    _require_one_model(runs)
    return Collection(tuple(runs), tuple(map(printable, problems)))


def _require_one_model(runs: Sequence[RunResult]) -> None:
    """Raise RunError if two runs name the same model but were made from different ones: they would be averaged."""
    first: dict[str, RunResult] = {}
    for run in runs:
        other = first.setdefault(run.experiment.model, run) if run.base_model else run
        if different := different_parts(other.base_model, run.base_model):
            raise RunError(
                f"{other.name} and {run.name} were made from different models, both named {run.experiment.model}. "
                f"Other {different}.",
                "Write the report of each alone, or move one of them to another folder.",
            )


def run_folders(folder: Path, depth: int = DEEPEST) -> Iterator[Path]:
    """Folders with a config.json and a data.json, or an experiment's config.json alone, sorted by name.

    Raises:
        RunError: A folder cannot be read.
    """
    if (folder / CONFIG).is_file() and (RunFolder(folder).has_begun or is_experiment(folder / CONFIG)):
        yield folder
        return
    if depth:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise RunError(f"Cannot read {folder}: {error.strerror}.", "Check your permissions.") from None
        for entry in entries:
            if entry.is_dir() and not entry.name.startswith("."):
                yield from run_folders(Path(entry.path), depth - 1)


def read_run(path: Path, name: str) -> tuple[RunResult, list[RunError]]:
    """A run that began, and errors about a file that a page does not need: the predictions.

    Raises:
        RunError: It did not begin, or a file that a page needs is damaged.
    """
    folder = RunFolder.open(path)
    run = RunResult(
        name,
        folder.experiment,
        folder.summary,
        folder.environment,
        folder.data,
        folder.records,
        base_model=recorded_model(path),
    )
    require_keys(FIELDS_OF_DATA, run.data, path / DATA)
    if run.summary:
        require_keys(["seconds_by_phase"], run.summary.to_dict(), path / SUMMARY)
    try:
        if (predictions := folder.predictions) is None:
            return run, []
        found = run_hits(predictions, run.base_classes, trains=run.experiment.trains)
        return replace(run, predictions=predictions, hits=found), []
    except RunError as error:
        return run, [error]


def _shortened(error: RunError, path: Path, folder: Path) -> str:
    """The message with the run's name instead of its path, which is meaningless on another machine."""
    return error.message.replace(str(path), _name(path, folder))


def _name(path: Path, folder: Path) -> str:
    return printable(path.name or str(path)) if path == folder else printable(path.relative_to(folder).as_posix())
