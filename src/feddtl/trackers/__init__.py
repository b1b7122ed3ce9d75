"""Trackers: observers that pass the numbers of a run to another program while it runs.

A tracker is a class in its own module, a line in `TRACKERS`, and an extra of the same name in pyproject.toml. Its
argument is the run's folder, in which it writes only to a subfolder with its name.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feddtl.errors import ConfigError, did_you_mean
from feddtl.observers import RunObserver

# Names and classes, known without importing the trackers' packages.
TRACKERS = {
    "tensorboard": "feddtl.trackers.tensorboard:TensorBoard",
}


def require_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for an unknown or repeated name, or a tracker that is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"There is no tracker '{name}'.", did_you_mean(name, TRACKERS))
        if names.count(name) > 1:
            raise ConfigError(f"The tracker '{name}' is named twice.", f"Use --track {name} only once.")
        _class_of(name)


def open_trackers(names: Sequence[str], folder: Path) -> list[RunObserver]:
    """The trackers with these names; they write nothing to the run's folder before the run has started.

    Raises:
        ConfigError: As `require_trackers`.
    """
    require_trackers(names)
    return [_class_of(name)(folder) for name in names]


def _class_of(name: str) -> Any:
    try:
        return pkgutil.resolve_name(TRACKERS[name])
    except ImportError as error:
        raise ConfigError(
            f"The tracker '{name}' cannot be imported: {error}.", f"Install it: pip install 'feddtl[{name}]'"
        ) from None
