"""What a person sees: bars on a terminal, one line a round elsewhere, tables at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from feddtl.config import Experiment
from feddtl.data.federated import FederatedData
from feddtl.evaluate import Scores
from feddtl.experiment import RunObserver, Summary
from feddtl.runtimes.local import Record

HEADLINE = (("local", "Local"), ("base", "Base"), ("novel", "Novel"), ("harmonic_mean", "HM"))
METHOD_TITLES = {"feddtl": "FedDTL", "fedlora": "FedLoRA", "zero-shot": "Zero-shot"}


def percent(value: float | None) -> str:
    """One decimal, or a dash where nothing was scored."""
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"


class QuietObserver(RunObserver):
    """Shows nothing."""

    def __enter__(self) -> QuietObserver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class LineObserver(QuietObserver):
    """One line for each thing worth knowing, on standard error."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rounds = 0

    def note(self, text: str) -> None:
        self._console.print(f"note: {text}", markup=False, highlight=False)

    def run_started(self, experiment: Experiment, data: FederatedData, zero_shot: Scores, rounds_done: int) -> None:
        self._rounds = experiment.rounds
        for line in start_lines(experiment, data, zero_shot, rounds_done):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def round_finished(self, record: Record) -> None:
        self._console.print(round_line(record, self._rounds), markup=False, highlight=False, soft_wrap=True)


class BarObserver(LineObserver):
    """Progress bars for images, rounds, clients and epochs, above them a line for each round."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._bars: dict[str, TaskID] = {}
        self._clients: tuple[int, ...] = ()

    def __enter__(self) -> BarObserver:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def images_encoded(self, what: str, done: int, total: int) -> None:
        self._show(what, done, total)
        if done == total:
            self._drop(what)

    def run_started(self, experiment: Experiment, data: FederatedData, zero_shot: Scores, rounds_done: int) -> None:
        super().run_started(experiment, data, zero_shot, rounds_done)
        self._show("rounds", rounds_done, experiment.rounds)

    def round_started(self, round_number: int, stage: str, clients: Sequence[int]) -> None:
        self._clients = tuple(clients)
        self._show("clients", 0, len(clients))

    def epoch_finished(self, client: int, epoch: int, epochs: int) -> None:
        self._show("epochs", epoch, epochs)

    def client_finished(self, client: int) -> None:
        self._show("clients", self._clients.index(client) + 1, len(self._clients))

    def round_finished(self, record: Record) -> None:
        super().round_finished(record)
        self._show("rounds", record["round"], self._rounds)

    def _show(self, name: str, done: int, total: int) -> None:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=total)
        self._progress.update(self._bars[name], completed=done, total=total)

    def _drop(self, name: str) -> None:
        self._progress.remove_task(self._bars.pop(name))


def choose_observer(*, quiet: bool, terminal: bool) -> QuietObserver:
    """Bars on a terminal, lines elsewhere, nothing when quiet."""
    if quiet:
        return QuietObserver()
    console = Console(stderr=True)
    return BarObserver(console) if terminal else LineObserver(console)


def start_lines(experiment: Experiment, data: FederatedData, zero_shot: Scores, rounds_done: int) -> list[str]:
    """What is about to run, and the score to beat."""
    title = METHOD_TITLES[experiment.method]
    lines = [
        f"{title} on {data.name}: {len(data.train)} training images of {len(data.base_names)} base classes "
        f"on {experiment.data.clients} clients ({experiment.data.regime}, {experiment.data.partition}), "
        f"{len(data.novel_names)} novel classes, model {experiment.model}, seed {experiment.seed}",
        f"zero-shot{'':<{8 + 2 * len(str(experiment.rounds))}}{scores_line(zero_shot.as_dict())}",
    ]
    if rounds_done:
        lines.append(f"resuming after round {rounds_done} of {experiment.rounds}")
    return lines


def round_line(record: Record, rounds: int) -> str:
    """One round on one line."""
    stage, train = record["stage"], record["train"]
    progress = f"loss {train.get('loss', math.nan):7.4f}"
    if stage == "rl":
        progress += f"  reward {train['reward']:.2f}  KL {train['kl']:.4f}"
    width = len(str(rounds))
    scores = "not scored"
    if "base" in record:
        scores = scores_line(record)
    seconds = record["seconds_training"] + record["seconds_evaluation"]
    return f"round {record['round']:>{width}}/{rounds} {stage:<4}  {scores}  {progress}  {seconds:.1f} s"


def scores_line(scores: Mapping[str, float]) -> str:
    """Base, novel and harmonic mean, aligned."""
    named = (("base", "base"), ("novel", "novel"), ("HM", "harmonic_mean"))
    return "  ".join(f"{name} {percent(scores[key]):>5}" for name, key in named)


def scores_table(rows: Mapping[str, Mapping[str, float | None]], title: str = "") -> Table:
    """Rows of local, base, novel and harmonic mean."""
    table = Table(title=title or None)
    table.add_column("")
    for _, heading in HEADLINE:
        table.add_column(heading, justify="right")
    for name, scores in rows.items():
        table.add_row(name, *(percent(scores.get(key)) for key, _ in HEADLINE))
    return table


def print_summary(summary: Summary, folder: Path) -> None:
    """Zero-shot beside the method, then where everything lies."""
    console = Console()
    name = METHOD_TITLES[summary["method"]] + (" (SFT only)" if summary["stages"] == "sft" else "")
    rows: dict[str, Any] = {"Zero-shot": summary["zero_shot"]}
    if summary["rounds"]:
        rows[name] = summary["final"]
    console.print(scores_table(rows, f"Accuracy in % after {summary['rounds']} rounds"))
    if summary["rounds"]:
        console.print(
            f"best round on the test images: {summary['best_round']} (HM {percent(summary['best']['harmonic_mean'])})  "
            f"time {summary['seconds']:.0f} s  up {megabytes(summary['bytes_up'])}  "
            f"down {megabytes(summary['bytes_down'])}",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"run folder: {folder}", highlight=False, soft_wrap=True, markup=False)


def megabytes(count: int) -> str:
    """Decimal megabytes."""
    return f"{count / 1e6:.1f} MB"
