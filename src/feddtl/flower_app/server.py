"""The app of a run's server: an experiment from the run configuration, and a run folder like that of `feddtl run`."""

from __future__ import annotations

from collections.abc import Mapping

from feddtl.cli.bars import Bars, error_console
from feddtl.cli.progress import ProgressObserver
from feddtl.config import Experiment
from feddtl.deployment import serve
from feddtl.errors import ConfigError, StoppedError
from feddtl.experiment_file import experiment_from_dict, load_experiment
from feddtl.flower_app.orphans import end_with_parent
from feddtl.marked_lines import say
from feddtl.observers import Observers
from feddtl.parsing import parse_json
from feddtl.runtimes.flower.apps import server_app
from feddtl.runtimes.flower.grid import Grid
from feddtl.state_folder import expanded
from feddtl.trackers import open_trackers


class MarkedLines(ProgressObserver):
    """Prints progress in lines that `feddtl submit` can distinguish from Flower's."""

    def __init__(self) -> None:
        super().__init__(Bars(error_console()))

    def show(self, line: str) -> None:
        say(line)


def serve_run_config(grid: Grid, run_config: Mapping[str, object]) -> None:
    """Run an experiment into the folder `output`, or with `resume` continue the run in it.

    Args:
        grid: Flower's connection to the nodes.
        run_config: `experiment`, FILE.toml or FILE.toml::LABEL, or instead `settings`, every key as JSON; `output`;
            `resume`; and `track`, names of trackers separated by commas.

    Raises:
        ConfigError: A path is missing, or there are both an experiment and settings.
    """
    output, experiment = expanded(_text("output", run_config)), _experiment(run_config)
    track = [str(run_config.get("track", ""))]
    observer = Observers(MarkedLines(), *open_trackers(track, output))
    try:
        serve(experiment, output, grid, resume=bool(run_config.get("resume", False)), observer=observer)
    except StoppedError as stop:
        # To Flower this is a run that ended well, which keeps a traceback out of the server's terminal.
        say(f"{stop.message} {stop.hint}")


def _experiment(run_config: Mapping[str, object]) -> Experiment:
    settings = str(run_config.get("settings", ""))
    if not settings:
        return load_experiment(expanded(_text("experiment", run_config)))
    if run_config.get("experiment"):
        raise ConfigError("The run configuration has both an experiment and settings.", "Set only one of them.")
    try:
        return experiment_from_dict(parse_json(settings))
    except ValueError as error:
        raise ConfigError(f"The settings in the run configuration are not JSON: {error}.") from None


def _text(key: str, run_config: Mapping[str, object]) -> str:
    value = str(run_config.get(key, ""))
    if not value:
        raise ConfigError(f"The run configuration has no {key}.", f"flwr run . --run-config '{key}=\"PATH\"'")
    return value


end_with_parent()
app = server_app(serve_run_config)
