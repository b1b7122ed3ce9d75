"""Trackers: observers that pass the numbers of a run to another program while it runs.

A tracker is a class in its own module, a line in `TRACKERS`, and an extra of the same name in pyproject.toml. Nothing
leaves the machine unless the user has set up the other program so.
"""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feddtl.checks import split_names
from feddtl.errors import ConfigError, did_you_mean
from feddtl.observers import RunObserver

# Names and classes, known without importing the trackers' packages.
TRACKERS = {
    "mlflow": "feddtl.trackers.mlflow:MLflow",
    "tensorboard": "feddtl.trackers.tensorboard:TensorBoard",
    "trackio": "feddtl.trackers.trackio:Trackio",
    "wandb": "feddtl.trackers.wandb:WandB",
}

# With these, the programs report nothing to their makers; a value that the user has set stays.
SILENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}


def require_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for an unknown or repeated name, or a tracker that is not installed.

    Args:
        names: Each may be several, separated by commas.
    """
    single = _single(names)
    for name in single:
        if name not in TRACKERS:
            raise ConfigError(f"There is no tracker '{name}'.", did_you_mean(name, TRACKERS))
        if single.count(name) > 1:
            raise ConfigError(f"The tracker '{name}' is named twice.", f"Name {name} only once with --track.")
        _class_of(name)


def open_trackers(names: Sequence[str], folder: Path) -> list[RunObserver]:
    """The trackers with these names; they write nothing to the run's folder before the run has started.

    Raises:
        ConfigError: As `require_trackers`.
    """
    require_trackers(names)
    return [_class_of(name)(folder) for name in _single(names)]


def _single(names: Sequence[str]) -> list[str]:
    return [single for name in names for single in split_names(name)]


def _class_of(name: str) -> Any:
    for variable, value in SILENT.items():
        os.environ.setdefault(variable, value)
    try:
        return pkgutil.resolve_name(TRACKERS[name])
    except ImportError as error:
        raise ConfigError(
            f"The tracker '{name}' cannot be imported: {error}.", f"Install it: `pip install 'feddtl[{name}]'`"
        ) from None
