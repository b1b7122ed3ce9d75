"""`feddtl run`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from feddtl.cli.experiment_argument import RunCommand
from feddtl.cli.printing import print_aside
from feddtl.errors import StoppedError
from feddtl.experiment_grid import experiment_name


@dataclass(frozen=True)
class Run(RunCommand):
    """Run an experiment: federated fine-tuning, scored every round.

    Flags override the experiment file. A run is a folder; see docs/reference/run-folder.md.
    """

    def opening(self) -> str:
        return "" if self.quiet or self.json else "loading PyTorch …"

    def execute(self) -> int:
        """Run or resume: progress on standard error, the result on standard output."""
        output = self.output_or_resumed() or self._default_output()
        self.require_free(output)
        from feddtl.cli.progress import run_progress
        from feddtl.cli.run_result import print_result
        from feddtl.experiment import run_experiment
        from feddtl.observers import Observers
        from feddtl.trackers import open_trackers

        trackers = open_trackers(self.track, output)
        try:
            with run_progress(quiet=self.quiet or self.json) as observer:
                if not (self.experiment or self.resume):
                    observer.note(
                        f"No experiment file was given: running the default experiment with your flags in {output}."
                    )
                resume = self.resume is not None
                summary = run_experiment(
                    self.config, output, resume=resume, extend=resume, observer=Observers(observer, *trackers)
                )
        except StoppedError as stop:
            print_aside(f"stopped: {stop.message} {stop.hint}")
            return 130
        except KeyboardInterrupt:
            again = f"feddtl run --resume {shlex.quote(str(output))}"
            print_aside(f"interrupted: `{again}` continues from the last checkpoint.")
            return 130
        print_result(summary, self.config.title, output, as_json=self.json)
        return 0

    def _default_output(self) -> Path:
        """runs/<experiment's name or method>-seed<seed>."""
        name = experiment_name(self.experiment) if self.experiment else self.config.method
        return Path("runs") / f"{name}-seed{self.config.seed}"
