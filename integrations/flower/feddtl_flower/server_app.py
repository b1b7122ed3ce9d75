"""The server: an experiment file from the run configuration, a run folder like that of `feddtl run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from feddtl.cli.terminal import choose_observer
from feddtl.deployment import serve
from feddtl.errors import ConfigError
from feddtl.experiment_file import load_experiment
from feddtl.runtimes.flower import Grid, server_app


def serve_run_config(grid: Grid, run_config: Mapping[str, object]) -> None:
    """Run `experiment` (FILE.toml or FILE.toml::LABEL) into `output`, or with `resume` go on there.

    Raises:
        ConfigError: A path is missing.
    """
    places = {key: str(run_config.get(key, "")) for key in ("experiment", "output")}
    for key, place in places.items():
        if not place:
            raise ConfigError(f"The run configuration has no {key}.", f"flwr run . --run-config '{key}=\"PATH\"'")
    experiment, output = (Path(place).expanduser() for place in places.values())
    with choose_observer(quiet=False, terminal=False) as observer:
        serve(
            load_experiment(experiment), output, grid, resume=bool(run_config.get("resume", False)), observer=observer
        )


app = server_app(serve_run_config)
