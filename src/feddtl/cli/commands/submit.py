"""`feddtl submit`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from feddtl.cli.experiment_argument import RunCommand
from feddtl.cli.flags import FolderFlag
from feddtl.cli.printing import print_aside, print_line, print_note
from feddtl.errors import ConfigError, RunError
from feddtl.notes import Warned, noted
from feddtl.state_folder import state_root

TERMINATED = 143  # 128 + SIGTERM, of a command that did not reach its end


@dataclass(frozen=True)
class Submit(RunCommand):
    """Run an experiment at the `feddtl server` of this machine, with its clients, and follow it to its end.

    Flags override the experiment file. Ctrl-C stops the run; --resume continues it, and --init-from starts another run
    from its model. See docs/how-to/continue.md.
    """

    output: FolderFlag = None
    """New folder for the run, on this machine."""
    state: FolderFlag = None
    """The server's --state; default: FEDDTL_STATE or ~/.local/state/feddtl."""

    def opening(self) -> str:
        return "" if self.quiet or self.json else "submitting the run to the server of this machine …"

    def execute(self) -> int:
        """Run an experiment at the server: progress on standard error, the result on standard output."""
        from feddtl.launch.processes import require_flower

        require_flower()
        output = self.output_or_resumed()
        if output is None:
            raise ConfigError("There is no --output.", "Choose a new folder on the server's machine with --output.")
        self.require_free(output)
        said: list[str] = []
        try:
            self._follow(output, said)
        except KeyboardInterrupt:
            print_aside(f"interrupted and stopped: {_what_is_left(output)}")
            return 130
        if stopped := _stopped(output):
            if stopped not in said:
                print_aside(stopped)
            return 130
        self._print_summary(output)
        return 0

    def _follow(self, output: Path, said: list[str]) -> None:
        """Submit the run and wait for its end; its lines are printed, and added to `said`."""
        from feddtl.absolute_paths import with_absolute_paths
        from feddtl.cli.bars import Bars, error_console
        from feddtl.cli.followed_bars import FollowedBars
        from feddtl.launch.processes import ended_by_sigterm
        from feddtl.launch.submission import submit

        if note := self.config.model_note:
            print_note(note)

        quiet = self.quiet or self.json
        bars = Bars(error_console(), disable=quiet)

        def show(line: str) -> None:
            if not quiet or line.startswith(noted(Warned(""))):
                said.append(line)
                print_line(bars.console, line)

        with ended_by_sigterm(TERMINATED), bars, FollowedBars(bars, output, self.config.rounds).watched():
            bars.draw("loading", "starting the run")
            submit(
                state_root(self.state) / "server",
                with_absolute_paths(self.config.with_model()),
                output,
                resume=self.resume is not None,
                track=self.track,
                show=show,
            )

    def _print_summary(self, output: Path) -> None:
        from feddtl.cli.run_result import print_result
        from feddtl.runs import RunFolder

        summary = RunFolder.open(output).summary
        if summary is None:
            raise RunError(f"The run is finished, but {output} has no summary.", "Is the server on another machine?")
        print_result(summary, self.config.title, output, as_json=self.json)


def _stopped(output: Path) -> str:
    """How `feddtl stop` ended the run, and how to go on; empty if it did not."""
    from feddtl.run_log import last_session, latest

    ended = latest(last_session(output), "ended")
    return f"{ended['text']} {ended['hint']}" if ended.get("how") == "stopped" else ""


def _what_is_left(output: Path) -> str:
    """How to go on with a run that was stopped."""
    from feddtl.run_files import has_run

    if has_run(output):
        return f"`feddtl submit --resume {shlex.quote(str(output))}` continues from the last checkpoint."
    return "the run had not begun."
