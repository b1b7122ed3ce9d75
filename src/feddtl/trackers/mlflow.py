"""The numbers of a run in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.utils.time import get_current_time_millis

from feddtl.config import Experiment
from feddtl.experiment_file import settings_by_key
from feddtl.trackers.tracker import PROJECT, Tracker

PARAMETERS_AT_A_TIME = 100  # a server takes no more


class MLflow(Tracker):
    """A run of the experiment 'feddtl', where MLflow keeps runs: MLFLOW_TRACKING_URI, or a file in the working folder.

    A resumed run is a new run there.
    """

    name = "mlflow"

    def open(self, experiment: Experiment) -> None:
        self._client = MlflowClient()
        known = self._client.get_experiment_by_name(PROJECT)
        owner = known.experiment_id if known else self._client.create_experiment(PROJECT)
        tags = {"feddtl.folder": str(self._folder.resolve()), "feddtl.method": experiment.title}
        self._run = self._client.create_run(owner, tags=tags, run_name=self._folder.resolve().name).info.run_id
        settings = [Param(key, str(value)) for key, value in settings_by_key(experiment).items()]
        for start in range(0, len(settings), PARAMETERS_AT_A_TIME):
            self._client.log_batch(self._run, params=settings[start : start + PARAMETERS_AT_A_TIME])

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        now = get_current_time_millis()
        self._client.log_batch(self._run, [Metric(key, value, now, step) for key, value in scalars.items()])

    def picture(self, title: str, path: Path) -> None:
        self._client.log_artifact(self._run, str(path))

    def close(self, *, finished: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if finished else "FAILED")
