"""The files of a run folder, and whether a run may begin or resume there; imports neither numpy nor torch.

config.json                 written before the data is loaded; from then on a killed run can be resumed
log.jsonl                   what the run said and when, for all processes that ran it; see `feddtl.run_log`
stop.request                the wish that the run stops; it lasts until the run has read it
environment.json data.json  written after preparation; from then on the run has begun
origin.json                 with these: the place of the folder, what its model was, and what it took from another run
federation.json             the name of the run among its clients on other machines, if it has any
metrics.jsonl summary.json  records of the finished rounds; the outcome
predictions.safetensors     the predicted class of each test image, before and after training
checkpoints/round-0007/{state.safetensors, progress.json}
adapter/{image, text}/      in PEFT's format, or, of a method without LoRA,
tensors/                    shared.safetensors, client-3.safetensors
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, get_type_hints

from feddtl.config import Experiment
from feddtl.config.data import ON_CLIENTS
from feddtl.errors import ConfigError, RunError
from feddtl.experiment_file import experiment_from_dict
from feddtl.record_fields import check_types
from feddtl.records import RESTORE, RoundRecord, Summary, read_records, require_keys
from feddtl.run_origin import ORIGIN, moved_paths, with_moved_paths
from feddtl.sealed_files import FIRST, read_sealed, read_sealed_lines
from feddtl.storage import DRAFT, storage_errors

CONFIG, ENVIRONMENT, DATA, SUMMARY = FIRST, "environment.json", "data.json", "summary.json"
METRICS, PREDICTIONS, FEDERATION = "metrics.jsonl", "predictions.safetensors", "federation.json"
LOG, STOP = "log.jsonl", "stop.request"
BEFORE_IT_BEGINS = (CONFIG, ENVIRONMENT, ORIGIN, LOG, STOP)
"""What a run may have before it begins; without it, nothing of the run is left."""


def refuse_used(path: Path) -> None:
    """Raise RunError if a new run at `path` would overwrite anything; an announced one may begin."""
    with storage_errors(path):
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; nothing was changed.", "Choose another --output.")
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    only_announced = all(name in BEFORE_IT_BEGINS or name.endswith(DRAFT) for name in names)
    if only_announced and (CONFIG not in names or is_experiment(path / CONFIG)):
        return
    if CONFIG in names:
        raise RunError(
            f"{path} already contains a run; nothing was changed.",
            f"Resume it: {resuming(path)}. Or choose another --output.",
        )
    raise RunError(f"{path} is not empty; nothing was changed.", "Choose another --output.")


def has_run(path: Path) -> bool:
    """Whether a folder contains a run, even if only announced."""
    with storage_errors(path):
        return (path / CONFIG).is_file()


def has_begun(path: Path) -> bool:
    """Whether everything of a run was loaded and its rounds could start."""
    return (path / DATA).is_file()


def require_run(path: Path) -> None:
    """Raise RunError if a folder contains no run."""
    if not has_run(path):
        raise RunError(f"There is no run in {path}.", f"Pass the --output folder of an earlier run (with {CONFIG}).")


def has_clients_elsewhere(path: Path) -> bool:
    """Whether the run in a folder was started over Flower, so that personal data are on its clients' machines."""
    return (path / FEDERATION).is_file()


def resuming(path: Path, command: str = "") -> str:
    """The command that resumes a run, between backticks; by default, that of the run in the folder."""
    command = command or ("submit" if has_clients_elsewhere(path) else "run")
    return f"`feddtl {command} --resume {shlex.quote(str(path))}`"


def read_table(path: Path, hint: str = RESTORE) -> dict[str, Any]:
    """The content of a JSON file of a run. Raises RunError with a hint if it is damaged."""
    try:
        return read_sealed(path)
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}.", hint) from None


def read_metrics(folder: Path) -> tuple[RoundRecord, ...]:
    """The record of each finished round of a run. Raises RunError."""
    path = folder / METRICS
    if not path.is_file():
        return ()
    try:
        return read_records(read_sealed_lines(path), path)
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged: {error}.", _write_again(path)) from None


def read_summary(folder: Path) -> Summary | None:
    """The outcome of a run; None until it is finished. Raises RunError."""
    path = folder / SUMMARY
    return Summary.from_dict(read_table(path, _write_again(path)), path) if path.is_file() else None


def is_finished(folder: Path) -> bool:
    """Whether a run has a summary. Raises RunError for a damaged one."""
    path = folder / SUMMARY
    if not path.is_file():
        return False
    read_table(path, _write_again(path))
    return True


def _write_again(path: Path) -> str:
    """How a file is written again from the last checkpoint of its run."""
    return f"Write it again from the checkpoint: `rm {shlex.quote(str(path))}`, then {resuming(path.parent)}."


class DataDescription(TypedDict, total=False):
    """The content of data.json; see `feddtl.summary.describe_data`."""

    dataset: str
    prompt_template: str
    base_classes: Sequence[str]
    novel_classes: Sequence[str]
    domains: Sequence[str]
    train_images: int | None
    test_base_images: int | None
    test_novel_images: int | None
    images_per_client_and_class: Sequence[Sequence[int]]
    notes: Sequence[str]
    sites: Sequence[str]


def read_data(path: Path) -> dict[str, Any]:
    """The content of a data.json. Raises RunError."""
    values = read_table(path)
    require_keys(("dataset", "prompt_template", "base_classes", "novel_classes"), values, path)
    try:
        check_types(get_type_hints(DataDescription), values)
    except TypeError as error:
        raise RunError(f"{path} is damaged: {error}.", RESTORE) from None
    return values


def experiment_of_run(values: Any) -> Experiment:
    """The experiment of a run, from the content of its config.json. Raises ConfigError.

    Earlier versions trained the first half of the classes of every source but 'clients', and had no setting for it.
    """
    data = values.get("data") if isinstance(values, dict) else None
    if isinstance(data, dict) and "class_split" not in data and data.get("source") != ON_CLIENTS:
        values = {**values, "data": {**data, "class_split": "half"}}
    return experiment_from_dict(values)


def read_experiment(path: Path) -> Experiment:
    """The experiment in a config.json, with the paths of what was moved together with it. Raises RunError."""
    values = read_table(path)
    try:
        return experiment_of_run(with_moved_paths(values, path.parent))
    except ConfigError as error:
        raise RunError(
            f"{path} was written by another version, or is damaged: {error.message}",
            "Restore it from a copy, use that version, or start a new run with another --output.",
        ) from None


def notes_on_paths(folder: Path) -> list[str]:
    """What to tell about paths that were moved together with a run folder."""
    moved = moved_paths(read_table(folder / CONFIG), folder)
    return [f"{key} = {old} is gone; using {new}, which was moved together with the run." for key, old, new in moved]


def is_experiment(path: Path) -> bool:
    """Whether a config.json is a run's and not, for example, a model's."""
    try:
        read_experiment(path)
    except RunError:
        return False
    return True
