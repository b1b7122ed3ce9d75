"""`feddtl stop`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from feddtl.cli.command import Command
from feddtl.cli.flags import RunFolder
from feddtl.cli.printing import print_text


@dataclass(frozen=True)
class Stop(Command):
    """Stop a run after its current round, with a checkpoint; `--resume` continues it.

    Server and clients stay up for other runs. Ctrl-C ends the waiting, not the stop.
    """

    folder: RunFolder = Path("runs")
    """Run folder, or a folder in which one run is running."""
    now: bool = False
    """Do not wait for the end of the round: it is discarded, and the last checkpoint stays."""
    no_wait: bool = False
    """Return at once; by default, the command waits until the run has ended."""

    def execute(self) -> int:
        """Ask the run to stop, and wait for its end.

        Returns:
            Exit code: 0 if it stopped or finished, 1 if it ended otherwise.
        """
        from feddtl.run_files import has_run
        from feddtl.run_following import ask_to_stop, chosen_run, final_lines, wait_for_end
        from feddtl.run_status import run_status

        folder = chosen_run(self.folder, running=True)
        print_text(ask_to_stop(folder, now=self.now))
        if self.no_wait:
            return 0
        wait_for_end(folder)
        print_text("\n".join(final_lines(folder)))
        return 0 if not has_run(folder) or run_status(folder).state in ("stopped", "finished") else 1
