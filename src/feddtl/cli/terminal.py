"""Terminal output: bars in a terminal, otherwise one line per round; tables at the end."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from feddtl.cli.command import print_json
from feddtl.config import Experiment, SystemConfig
from feddtl.config.data import ON_CLIENTS
from feddtl.data.federated import FederatedData
from feddtl.evaluate import Scores
from feddtl.methods.catalog import method_entry
from feddtl.observers import RunObserver
from feddtl.records import SCORE_HEADINGS, SCORES, FederatedAccuracy, Headline, RoundRecord, Summary
from feddtl.timing import PHASE_TITLES, PHASES
from feddtl.units import counted, duration, percent, size


class QuietObserver(RunObserver):
    """Shows nothing."""

    def __enter__(self) -> QuietObserver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def error_console() -> Console:
    """Where progress goes: standard error."""
    return Console(stderr=True)


class LineObserver(QuietObserver):
    """One line for each thing worth knowing, on standard error."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rounds = 0
        self._clock = False
        self._on_clients = False

    def note(self, text: str) -> None:
        self.show(f"note: {text}")

    def run_started(
        self, experiment: Experiment, data: FederatedData, zero_shot: Scores, records: Sequence[RoundRecord]
    ) -> None:
        self._rounds = experiment.rounds
        self._clock = experiment.system != SystemConfig()
        self._on_clients = data.on_clients
        for line in start_lines(experiment, data, zero_shot, len(records)):
            self.show(line)

    def clients_counted(self, round_number: int, federated: FederatedAccuracy) -> None:
        if self._on_clients:
            self.show(counted_line(round_number, federated, self._rounds))

    def round_finished(self, record: RoundRecord) -> None:
        self.show(round_line(record, self._rounds, virtual_time=self._clock))

    def show(self, line: str) -> None:
        """Print a line."""
        # A terminal has a long line broken between words, a file gets it whole.
        self._console.print(line, markup=False, highlight=False, soft_wrap=not self._console.is_terminal)


class BarObserver(LineObserver):
    """Progress bars for images, rounds, clients and epochs, above them a line for each round."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            TextColumn("{task.description:<20}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[count]:>11}"),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
        )
        self._bars: dict[str, TaskID] = {}
        self._clients = self._arrived = 0

    def __enter__(self) -> BarObserver:
        self._progress.start()
        self._show("loading", "data and model")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def images_encoded(self, what: str, done: int, total: int) -> None:
        self._show("loading", what, done, total)

    def run_started(
        self, experiment: Experiment, data: FederatedData, zero_shot: Scores, records: Sequence[RoundRecord]
    ) -> None:
        self._drop("loading")
        super().run_started(experiment, data, zero_shot, records)
        self._show("rounds", "rounds", len(records), experiment.rounds)

    def round_started(self, round_number: int, stage: str, clients: Sequence[int]) -> None:
        self._clients, self._arrived = len(clients), 0
        self._show("clients", "clients", 0, len(clients))
        self._show("epochs", f"client {clients[0]}, {stage}")

    def epoch_finished(self, client: int, epoch: int, epochs: int) -> None:
        self._show("epochs", f"epochs of client {client}", epoch, epochs)

    def client_finished(self, client: int) -> None:
        self._arrived += 1
        self._show("clients", "clients", self._arrived, self._clients)
        if self._arrived == self._clients:
            self._show("epochs", "server and scoring")

    def round_finished(self, record: RoundRecord) -> None:
        super().round_finished(record)
        self._show("rounds", "rounds", record.round, self._rounds)

    def _show(self, bar: str, title: str, done: int = 0, total: int | None = None) -> None:
        """Draw a bar; without a total it pulses."""
        count = "" if total is None else f"{done}/{total}"
        if bar not in self._bars:
            self._bars[bar] = self._progress.add_task(title, total=total, completed=done, count=count, left="")
        task = self._bars[bar]
        self._progress.update(task, description=title, completed=done, total=total, count=count)
        if bar == "rounds":
            self._progress.update(task, left=self._time_left(task))

    def _time_left(self, task: TaskID) -> str:
        """Estimate from the rounds since the start or the resumption; empty before the first of them."""
        seconds = self._progress.tasks[self._progress.task_ids.index(task)].time_remaining
        return "" if not seconds else f"about {duration(seconds)} left"

    def _drop(self, bar: str) -> None:
        if bar in self._bars:
            self._progress.remove_task(self._bars.pop(bar))


def choose_observer(*, quiet: bool, terminal: bool) -> QuietObserver:
    """Bars on a terminal, lines elsewhere, nothing when quiet."""
    if quiet:
        return QuietObserver()
    console = error_console()
    return BarObserver(console) if terminal else LineObserver(console)


def start_lines(experiment: Experiment, data: FederatedData, zero_shot: Scores, rounds_done: int) -> list[str]:
    """What is about to run, and the score to beat, aligned with `round_line`."""
    lines = [
        f"{method_entry(experiment.method).title} on {data.name}, model {experiment.model}, seed {experiment.seed}"
    ]
    base, novel = counted(len(data.base_names), "base class"), counted(len(data.novel_names), "novel class")
    clients = counted(experiment.data.clients, "client")
    if data.on_clients:
        lines.append(f"{clients} with images of their own: {base}, {novel}")
    else:
        lines += [
            f"{counted(len(data.train), 'training image')} of {base} on {clients} "
            f"({experiment.data.regime}, {experiment.data.partition}), {novel}",
            f"zero-shot{'':<{5 + 2 * len(str(experiment.rounds))}}{scores_line(zero_shot.as_dict())}",
        ]
    if rounds_done:
        lines.append(f"resuming after round {rounds_done} of {experiment.rounds}")
    return lines


def round_line(record: RoundRecord, rounds: int, *, virtual_time: bool = False) -> str:
    """One round on one line; where clocks are simulated, with the virtual time since the start."""
    train, found = record.train, record.headline
    progress = f"loss {train.get('loss', math.nan):7.4f}"
    if "reward" in train:
        progress += f"  reward {train['reward']:.2f}  KL {train['kl']:.4f}"
    if record.lost:
        progress += f"  lost {len(record.lost)}"
    if virtual_time:
        progress += f"  virtual {duration(record.virtual_seconds, precise=True)}"
    width = len(str(rounds))
    scores = f"local {percent(found['local']):>5}" if record.scores else "not scored"
    if record.is_scored:
        scores = scores_line(found)
    seconds = sum(record.seconds.values())
    return f"round {record.round:>{width}}/{rounds} {record.stage:<4}  {scores}  {progress}  {seconds:.1f} s"


def counted_line(round_number: int, federated: FederatedAccuracy, rounds: int) -> str:
    """The clients' scores of the model after a round, which arrive one round later."""
    when = f"after round {round_number}/{rounds}" if round_number else "before training"
    images = counted(federated.base_images + federated.novel_images, "test image")
    return f"{when}  {scores_line(federated.scores)}  ({images} on {counted(len(federated.clients), 'client')})"


def scores_line(scores: Headline) -> str:
    """Base, novel and harmonic mean, aligned."""
    named = (("base", "base"), ("novel", "novel"), ("HM", "harmonic_mean"))
    return "  ".join(f"{name} {percent(scores[key]):>5}" for name, key in named)


def scores_table(rows: Mapping[str, Mapping[str, float | None]], title: str = "") -> Table:
    """Rows of local, base, novel and harmonic mean."""
    table = Table(title=title or None)
    table.add_column("")
    for heading in SCORE_HEADINGS.values():
        table.add_column(heading, justify="right")
    for name, scores in rows.items():
        table.add_row(name, *(percent(scores.get(key)) for key in SCORES))
    return table


def print_result(summary: Summary, title: str, folder: Path, *, as_json: bool) -> None:
    """The summary of a run on standard output, as JSON or as tables; see `print_summary`."""
    if as_json:
        print_json(summary.to_dict())
    else:
        print_summary(summary, title, folder)


def print_summary(summary: Summary, title: str, folder: Path) -> None:
    """Zero-shot beside the method, then where everything lies.

    Args:
        summary: Of the run.
        title: Of its method.
        folder: Of the run.
    """
    console = Console()
    whole = not console.is_terminal  # a terminal has long lines broken between words
    rounds, parameters = summary.rounds, summary.trainable_parameters or {}
    rows: dict[str, Mapping[str, float | None]] = {"Zero-shot": summary.zero_shot}
    if rounds:
        rows[title] = summary.final
    if parameters.get("personal") and summary.final_client_models:
        rows["clients' own models"] = {**summary.final_client_models, "local": summary.final["local"]}
    federated = (summary.federated or {}).get("final")
    if rounds and federated and summary.partition != ON_CLIENTS:  # there it is the final accuracy
        rows["on clients' test images"] = federated.scores
    after = f" after {counted(rounds, 'round')}" if rounds else ""
    console.print(scores_table(rows, f"Accuracy in %{after}"))
    if summary.final_domains and summary.final_domain_mean:
        console.print(domains_line(summary.final_domains, summary.final_domain_mean), markup=False, soft_wrap=whole)
    if rounds:
        console.print(parameters_line(parameters), highlight=False, soft_wrap=whole)
        if summary.partition != ON_CLIENTS:
            best = f"HM {percent(summary.best['harmonic_mean'])} after round {summary.best_round}"
            console.print(
                f"highest on the test images, not for model selection: {best}", highlight=False, soft_wrap=whole
            )
        console.print(
            f"time {duration(summary.seconds)}  up {size(summary.bytes_up)}  down {size(summary.bytes_down)}",
            highlight=False,
            soft_wrap=whole,
        )
    console.print(time_line(summary.seconds_by_phase or {}), highlight=False, soft_wrap=whole)
    console.print(f"run folder: {folder}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"as a page: feddtl report {shlex.quote(str(folder))}", highlight=False, soft_wrap=True, markup=False)


def parameters_line(parameters: Mapping[str, int]) -> str:
    """Trained numbers by what becomes of them; what there is none of is left out."""
    where = {"shared": "shared by the clients", "personal": "kept by each client", "server": "on the server"}
    return "trained parameters: " + ", ".join(f"{parameters[k]:,} {v}" for k, v in where.items() if parameters.get(k))


def domains_line(domains: Mapping[str, Any], mean: Mapping[str, float | None]) -> str:
    """Base and novel by domain, and their means."""
    pairs = {**domains, "mean": (mean["base"], mean["novel"])}
    return "base/novel by domain: " + "  ".join(f"{n} {percent(a)}/{percent(b)}" for n, (a, b) in pairs.items())


def time_line(seconds: Mapping[str, float]) -> str:
    """Where the time went, the longest phase first; phases below half a percent count as 'other', which is last."""
    total = sum(seconds.values()) or 1.0
    shown = [phase for phase in PHASES if phase != "other" and seconds.get(phase, 0.0) >= 0.005 * total]
    named = {PHASE_TITLES[phase]: seconds[phase] for phase in sorted(shown, key=lambda phase: -seconds[phase])}
    if other := sum(value for phase, value in seconds.items() if phase not in shown):
        named["other"] = other
    parts = (f"{name} {duration(value, precise=True)} ({value / total:.0%})" for name, value in named.items())
    return "time went to: " + "  ".join(parts)
