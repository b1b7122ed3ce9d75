"""`feddtl status`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from feddtl.cli.command import Command
from feddtl.cli.flags import RunFolder
from feddtl.cli.printing import print_aside, print_json, print_text
from feddtl.errors import FeddtlError, RunError


@dataclass(frozen=True)
class Status(Command):
    """Show what runs are doing: rounds, accuracies, clients and remaining time, or how they ended.

    Running and newer ones come first. Works for `feddtl run`, `compare` and `submit`, from any terminal of the machine
    that runs them.
    """

    folder: RunFolder = Path("runs")
    """Run folder, or a folder with several."""
    json: bool = False
    """Print a list with an entry for each run, as JSON."""

    def opening(self) -> str:
        return "" if self.json else f"reading the runs in {self.folder} …"

    def execute(self) -> int:
        """Print the status of each run on standard output; a folder that cannot be read on standard error."""
        from feddtl.run_status import run_status, runs_below, status_lines

        found, unreadable = [], 0
        for folder in runs_below(self.folder):
            try:
                found.append(run_status(folder))
            except FeddtlError as error:
                unreadable += 1
                print_aside(f"error: {error.message}")
        found.sort(key=lambda each: (each.live, each.started), reverse=True)
        if not found and not unreadable:
            raise RunError(f"There is no run in {self.folder}.", "Pass the --output folder of a run, or one above it.")
        if self.json:
            print_json([each.to_dict() for each in found])
        else:
            for each in found:
                print_text("\n".join(status_lines(each)))
        return 1 if unreadable else 0
