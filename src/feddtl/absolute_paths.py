"""Paths of an experiment that mean the same in every working folder."""

from __future__ import annotations

import os
from dataclasses import replace

from feddtl.config import Experiment
from feddtl.config.experiment import AUTO_MODEL, EMBEDDED_MODEL
from feddtl.config.running import CACHE_OFF
from feddtl.methods.catalog import with_absolute_file
from feddtl.state_folder import expanded


def with_absolute_paths(experiment: Experiment) -> Experiment:
    """The experiment with absolute paths; names of the catalogue and the Hub and built-in names are unchanged."""
    source, root = experiment.data.source, experiment.data.root
    data = replace(
        experiment.data,
        # Below a root the source is a name, whatever lies in the working directory.
        source=source if root or _is_a_name(source) else _absolute(source),
        root=_absolute(root) if root else "",
    )
    model = experiment.model
    is_model_folder = model not in (AUTO_MODEL, EMBEDDED_MODEL) and _is_there(model)
    folder = experiment.compute.cache_folder
    compute = replace(experiment.compute, cache_folder=folder if folder in ("", CACHE_OFF) else _absolute(folder))
    method = with_absolute_file(experiment.method)
    model = _absolute(model) if is_model_folder else model
    init_from = _absolute(experiment.init_from) if experiment.init_from else ""
    return replace(experiment, method=method, model=model, init_from=init_from, data=data, compute=compute)


def _is_a_name(source: str) -> bool:
    """Whether a source is a name, even if a folder has the same name."""
    if not source or not _is_there(source):
        return True
    # Imported only if the source may be a folder: these modules need torch, and this process waits for hours.
    from feddtl.config.data import ON_CLIENTS
    from feddtl.config.protocol import SHAPES
    from feddtl.data.catalog import CATALOG

    return source in (SHAPES, ON_CLIENTS, *CATALOG)


def _is_there(path: str) -> bool:
    """Whether a file or folder exists; False where this user may not look, and whoever reads it says so."""
    return os.path.exists(expanded(path))  # noqa: PTH110 - Path.exists raises PermissionError


def _absolute(path: str) -> str:
    """Absolute and without `..`, which is resolved on disk because a link may precede it."""
    whole = expanded(path).absolute()
    return str(whole.resolve() if ".." in whole.parts else whole)
