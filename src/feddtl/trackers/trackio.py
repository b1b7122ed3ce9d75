"""The numbers of a run in trackio."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path

import trackio

from feddtl.config import Experiment
from feddtl.experiment_file import experiment_to_dict
from feddtl.trackers.tracker import PROJECT, Tracker


class Trackio(Tracker):
    """A run of the project 'feddtl' in trackio's own folder on this machine, TRACKIO_DIR.

    A resumed run is a new run there.
    """

    name = "trackio"

    def open(self, experiment: Experiment) -> None:
        with redirect_stdout(sys.stderr):  # standard output belongs to the command
            self._run = trackio.init(
                project=PROJECT,
                name=self._folder.resolve().name,
                config=experiment_to_dict(experiment),
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._step = step
        self._run.log(dict(scalars), step=step)

    def picture(self, title: str, path: Path) -> None:
        self._run.log({title: trackio.Image(path)}, step=self._step)

    def close(self, *, finished: bool) -> None:
        with redirect_stdout(sys.stderr):
            trackio.finish()  # the last run of `trackio.init`, which would print again at exit otherwise
