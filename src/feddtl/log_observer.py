"""Writes the log of a run, and ends the run when `feddtl stop` asked for it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from feddtl.config import Experiment, SystemConfig
from feddtl.config.running import SCORED_IMAGES
from feddtl.data.federated import FederatedData
from feddtl.errors import FeddtlError, RunError, StoppedError
from feddtl.evaluate import Scores
from feddtl.federated_accuracy import FederatedAccuracy
from feddtl.notes import Warned
from feddtl.observers import RunObserver
from feddtl.progress_lines import counted_line, round_line, start_lines
from feddtl.records import RoundRecord, Summary
from feddtl.run_files import STOP, has_begun, resuming
from feddtl.run_following import NOW
from feddtl.run_log import append_event, begin_session
from feddtl.units import duration, scores_line

# An event a second at most where there may be thousands in a second.
SECONDS_BETWEEN_EVENTS = 1.0


@contextmanager
def logged(folder: Path, experiment: Experiment, *, remote: bool) -> Iterator[RunObserver]:
    """Log what happens in the block, a run in a folder that this process has locked, and how it ends.

    Args:
        folder: The run's.
        experiment: What is run.
        remote: Whether its clients are elsewhere.
    """
    (folder / STOP).unlink(missing_ok=True)  # for a process that has ended
    begin_session(folder, remote=remote)
    how, text, hint = "interrupted", "", ""
    observer = LogObserver(folder, experiment.rounds, remote=remote)
    try:
        yield observer
        how, text = "finished", observer.outcome
    except StoppedError as error:
        how, text, hint = "stopped", error.message, error.hint
        raise
    except FeddtlError as error:
        how, text, hint = "failed", error.message, error.hint
        raise
    except Exception as error:
        how, text = "failed", f"{type(error).__name__}: {error}"
        raise
    finally:
        with suppress(OSError):
            (folder / STOP).unlink(missing_ok=True)
        # A full disk must not hide why the run ended.
        with suppress(RunError):
            append_event(folder, "ended", how=how, text=text, hint=hint)


class LogObserver(RunObserver):
    """Appends the events of a run to its log, and raises StoppedError between two rounds where that was asked for.

    Args:
        folder: The run's.
        rounds: Of the experiment.
        remote: Whether the clients are elsewhere: each arrival is then logged.
    """

    def __init__(self, folder: Path, rounds: int, *, remote: bool) -> None:
        self._folder, self._rounds = folder, rounds
        self._between = 0.0 if remote else SECONDS_BETWEEN_EVENTS
        self._finished_rounds = 0
        self._arrived: list[int] = []
        self._written = time.monotonic()
        self._clock = self._on_clients = False
        self._scored = SCORED_IMAGES["test"]
        self._stopped = False
        self.outcome = ""

    def note(self, text: str) -> None:
        self._append("warning" if isinstance(text, Warned) else "note", text=text)

    def images_encoded(self, what: str, done: int, total: int) -> None:
        self._stop_if_asked()
        if time.monotonic() - self._written >= SECONDS_BETWEEN_EVENTS:
            self._append("images", what=what, done=done, total=total)

    def clients_connected(self, clients: Sequence[int], of: int) -> None:
        self._append("connected", clients=list(clients), of=of)

    def waiting(self) -> None:
        self._stop_if_asked(NOW)

    def run_started(
        self, experiment: Experiment, data: FederatedData, zero_shot: Scores, records: Sequence[RoundRecord]
    ) -> None:
        self._clock, self._on_clients = experiment.system != SystemConfig(), data.on_clients
        self._scored, self._finished_rounds = SCORED_IMAGES[data.scored], len(records)
        self._append("begun", lines=start_lines(experiment, data, zero_shot, len(records)))

    def round_started(self, round_number: int, stage: str, clients: Sequence[int]) -> None:
        self._stop_if_asked()
        self._arrived.clear()
        self._append("round", round=round_number, stage=stage, clients=list(clients))

    def epoch_finished(self, client: int, epoch: int, epochs: int) -> None:
        self._stop_if_asked(NOW)

    def client_finished(self, client: int) -> None:
        self._stop_if_asked(NOW)
        self._arrived.append(client)
        if time.monotonic() - self._written >= self._between:
            self._append("arrived", clients=sorted(self._arrived))

    def clients_counted(self, round_number: int, federated: FederatedAccuracy) -> None:
        if self._on_clients:
            self._append("line", text=counted_line(round_number, federated, self._rounds, self._scored))

    def round_finished(self, record: RoundRecord) -> None:
        self._finished_rounds = record.round
        self._append("line", text=round_line(record, self._rounds, virtual_time=self._clock))

    def run_finished(self, summary: Summary) -> None:
        self.outcome = f"{scores_line(summary.final)}  in {duration(summary.seconds)}"

    def _append(self, event: str, **fields: object) -> None:
        append_event(self._folder, event, **fields)
        self._written = time.monotonic()

    def _stop_if_asked(self, wish: str = "") -> None:
        """Raise StoppedError, once, if there is a request to stop, of that wish if one is given."""
        request = self._folder / STOP
        if self._stopped or not request.exists() or (wish and request.read_text(encoding="utf-8").strip() != wish):
            return
        self._stopped = True  # so that the clients can still be told
        number = self._finished_rounds
        done = f"after round {number} of {self._rounds}" if number else "before its first round ended"
        hint = f"Resume it: {resuming(self._folder)}." if has_begun(self._folder) else "Nothing of it was kept."
        message = f"The run was stopped {done}, as `feddtl stop` asked."
        raise StoppedError(message, hint, for_clients=message)
