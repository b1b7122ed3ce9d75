"""`feddtl run`."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from feddtl.cli.commands import Run
from feddtl.cli.terminal import choose_observer, print_summary
from feddtl.errors import ConfigError
from feddtl.experiment import Summary, run_experiment
from feddtl.runs import RunFolder
from feddtl.storage import json_text, only_writer


def run(command: Run) -> int:
    """Run or resume, show progress on standard error, the result on standard output."""
    if command.resume and command.output:
        raise ConfigError("--resume and --output were both given.", "--resume DIR goes on in DIR itself.")
    output = command.resume or command.output or default_output(command)
    with _folder_to_use(command, output) as folder, only_writer(output):
        try:
            summary = _summary(command, folder)
        except KeyboardInterrupt:
            print(f"interrupted: `feddtl run --resume {output}` goes on from the last finished round.", file=sys.stderr)
            return 130
    if command.json:
        print(json_text(summary), end="")
    else:
        print_summary(summary, output)
    return 0


def default_output(command: Run) -> Path:
    """runs/<experiment file's name or method>-seed<seed>."""
    name = command.experiment.stem if command.experiment else command.config.method
    return Path("runs") / f"{name}-seed{command.config.seed}"


def _folder_to_use(command: Run, output: Path) -> AbstractContextManager[RunFolder]:
    """The folder to resume, checked, or a new one that disappears again if its run cannot begin."""
    if command.resume is None:
        return RunFolder.announced(output, command.config)
    folder = RunFolder.find(command.resume)
    folder.require_same(command.config)
    return nullcontext(folder)


def _summary(command: Run, folder: RunFolder) -> Summary:
    folder.remove_drafts()
    observer = choose_observer(quiet=command.quiet or command.json, terminal=sys.stderr.isatty())
    with observer:
        return run_experiment(command.config, folder.path, resume=folder.has_begun, observer=observer)
