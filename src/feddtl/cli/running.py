"""`feddtl run`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from feddtl.cli.commands import Run
from feddtl.cli.terminal import choose_observer, print_summary
from feddtl.errors import ConfigError
from feddtl.experiment import run_experiment
from feddtl.experiment_grid import experiment_name
from feddtl.observers import Observers
from feddtl.storage import json_text
from feddtl.trackers import open_trackers


def run(command: Run) -> int:
    """Run or resume, show progress on standard error, the result on standard output."""
    if command.resume and command.output:
        raise ConfigError("--resume and --output were both given.", "--resume DIR goes on in DIR itself.")
    output = command.resume or command.output or default_output(command)
    trackers = open_trackers(command.track, output)
    observer = choose_observer(quiet=command.quiet or command.json, terminal=sys.stderr.isatty())
    try:
        with observer:
            if not (command.experiment or command.resume):
                observer.note(f"No experiment file was given: the default experiment, with your flags, into {output}.")
            summary = run_experiment(
                command.config, output, resume=command.resume is not None, observer=Observers(observer, *trackers)
            )
    except KeyboardInterrupt:
        again = f"feddtl run --resume {shlex.quote(str(output))}"
        print(f"interrupted: `{again}` goes on from where it stood.", file=sys.stderr)
        return 130
    if command.json:
        print(json_text(summary.to_dict()), end="")
    else:
        print_summary(summary, command.config.title, output)
    return 0


def default_output(command: Run) -> Path:
    """runs/<experiment's name or method>-seed<seed>."""
    name = experiment_name(command.experiment) if command.experiment else command.config.method
    return Path("runs") / f"{name}-seed{command.config.seed}"
