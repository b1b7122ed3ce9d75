"""The numbers of a run in Weights & Biases, offline unless WANDB_MODE says otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import wandb

from feddtl.config import Experiment
from feddtl.experiment_file import experiment_to_dict
from feddtl.trackers.tracker import PROJECT, Tracker

OFFLINE = "offline"


class WandB(Tracker):
    """A run of the project 'feddtl' in `wandb`, a subfolder of the run's folder. `wandb sync` sends it, nothing else.

    A resumed run is a new run there.
    """

    name = "wandb"

    def open(self, experiment: Experiment) -> None:
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=self._folder.resolve().name,
            dir=self._folder,
            config=experiment_to_dict(experiment),
            mode=cast(Any, os.environ.get("WANDB_MODE", OFFLINE)),
            reinit="finish_previous",
            # Standard output belongs to the command, and source code to its author.
            settings=wandb.Settings(console="off", silent=True, save_code=False),
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def picture(self, title: str, path: Path) -> None:
        self._run.log({title: wandb.Image(str(path))})

    def close(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
