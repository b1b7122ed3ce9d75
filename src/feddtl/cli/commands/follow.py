"""`feddtl follow`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from feddtl.cli.command import Command
from feddtl.cli.flags import RunFolder
from feddtl.cli.printing import print_line, print_text


@dataclass(frozen=True)
class Follow(Command):
    """Show what a run prints, from its start until its end, as in the terminal that it was started from.

    Ctrl-C ends the command, not the run.
    """

    folder: RunFolder = Path("runs")
    """Run folder, or a folder in which one run is running."""

    def execute(self) -> int:
        """Print lines as they come, above bars on a terminal.

        Returns:
            Exit code: 0 if the run finished, 1 if it ended otherwise.
        """
        from rich.console import Console

        from feddtl.cli.bars import Bars
        from feddtl.cli.followed_bars import FollowedBars
        from feddtl.run_files import CONFIG, has_run, read_experiment
        from feddtl.run_following import chosen_run, final_lines, followed_lines
        from feddtl.run_status import run_status

        folder = chosen_run(self.folder)
        console = Console(force_terminal=sys.stdout.isatty())
        with Bars(console) as bars:
            drawn = FollowedBars(bars, folder, read_experiment(folder / CONFIG).rounds)
            for line in followed_lines(folder, drawn.draw):
                print_line(console, line)
        print_text("\n".join(final_lines(folder)))
        return 0 if has_run(folder) and run_status(folder).state == "finished" else 1
