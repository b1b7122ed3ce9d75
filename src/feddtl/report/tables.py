"""Numbers of a setting as tables: means and deviations over seeds, the best in bold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from feddtl.config import Experiment
from feddtl.dotted import flatten
from feddtl.evaluate import accuracy
from feddtl.experiment_file import experiment_to_dict
from feddtl.labels import shown_values
from feddtl.records import Headline
from feddtl.report.accuracy import local_by_client, zero_shot_by_client
from feddtl.report.collect import Run, printable
from feddtl.report.grouping import SettingRuns
from feddtl.spread import Spread, spread_of
from feddtl.units import duration, percent, size

HEADLINE = (("local", "Local"), ("base", "Base"), ("novel", "Novel"), ("harmonic_mean", "HM"))


@dataclass(frozen=True)
class Cell:
    """Text of a table.

    Attributes:
        text: What it says.
        spread: What stands behind it in smaller letters.
        best: Whether nothing in its column is higher.
    """

    text: str
    spread: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        headings: Of all columns.
        rows: One text for each column.
        caption: What it shows.
        numbers: Whether all but the first column are numbers, which stand at the right.
    """

    headings: tuple[str, ...]
    rows: list[list[Cell]]
    caption: str
    numbers: bool = True


@dataclass(frozen=True)
class Line:
    """A row of spreads before the best are known."""

    label: str
    spreads: list[Spread]
    competes: bool = field(default=True)


def headline(setting: SettingRuns) -> Table:
    """Local, base, novel and harmonic mean of zero-shot and every method."""
    seeds = len(setting.seeds)
    lines = [_zero_shot_line(setting)] if setting.zero_shot else []
    for method in setting.methods:
        spreads = [spread_of(run.final.get(key) for run in method.counted) for key, _ in HEADLINE]
        fewer = f"{len(method.runs)} of {seeds} seeds" if len(method.runs) < seeds else ""
        notes = "; ".join(filter(None, (fewer, method.note)))
        label = f"{method.label} ({notes})" if notes else method.label
        lines.append(Line(label, spreads, competes=any(run.summary for run in method.counted)))
    caption = "Accuracy in % after the last round" + (
        f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""
    )
    return Table(("", *(title for _, title in HEADLINE)), _with_best(lines), caption)


def client_models(setting: SettingRuns) -> Table | None:
    """Base, novel and harmonic mean of the clients' own models; None where they were not scored."""

    def own(run: Run) -> Headline:
        return (run.summary.final_client_models if run.summary else None) or {}

    lines = [
        Line(method.label, [spread_of(own(run).get(key) for run in method.counted) for key, _ in HEADLINE[1:]])
        for method in setting.methods
        if any(map(own, method.counted))
    ]
    if not lines:
        return None
    caption = "Accuracy in % of the clients' own models, mean over the clients"
    return Table(("", *(title for _, title in HEADLINE[1:])), _with_best(lines), caption)


def domains(setting: SettingRuns) -> Table | None:
    """Base and novel by domain; None where there is one domain."""
    names = list(setting.first.data["domains"])
    if len(names) < 2:
        return None
    halves = _halves(setting)

    def pair(run: Run, name: str) -> Sequence[float | None]:
        return run.summary.final_domains.get(name, (None, None)) if run.summary else (None, None)

    before = [zero_shot_by_domain(run) for run in setting.with_predictions]
    lines = [
        Line(
            "Zero-shot", [spread_of(found[at][side] for found in before) for at in range(len(names)) for side in halves]
        )
    ]
    lines += [
        Line(
            method.label,
            [spread_of(pair(run, name)[side] for run in method.counted) for name in names for side in halves],
        )
        for method in setting.methods
        if any(run.summary and run.summary.final_domains for run in method.counted)
    ]
    headings = [printable(f"{name}, {('base', 'novel')[side]}") for name in names for side in halves]
    return Table(("", *headings), _with_best(lines), "Accuracy in % by domain of the test images")


def clients(setting: SettingRuns) -> Table | None:
    """Worst, mean and best local accuracy over the clients; None where it is not recorded."""
    summaries: tuple[tuple[str, Callable[[list[float]], float]], ...] = (
        ("worst client", min),
        ("mean", lambda values: sum(values) / len(values)),
        ("best client", max),
    )
    rows = [(method.label, [local_by_client(run) for run in method.counted]) for method in setting.methods]
    rows.insert(0, ("Zero-shot", [zero_shot_by_client(run) for run in setting.with_predictions]))
    lines = [
        Line(
            label,
            [spread_of(function(list(values.values())) for values in found if values) for _, function in summaries],
        )
        for label, found in rows
        if any(found)
    ]
    if not lines:
        return None
    caption = "Local accuracy in % over the clients of the last scored round"
    return Table(("", *(name for name, _ in summaries)), _with_best(lines), caption)


def runs(collected: Iterable[Run]) -> Table:
    """One line for each run folder."""
    rows = []
    for run in collected:
        rounds = len(run.records) if run.summary is None else run.summary.rounds
        state = "finished" if run.summary else f"unfinished, {rounds} of {run.experiment.rounds} rounds"
        rows.append(
            [
                Cell(run.name),
                Cell(run.experiment.title),
                Cell(str(run.experiment.seed)),
                Cell(str(rounds)),
                Cell(state),
                Cell(duration(sum(run.seconds.values()))),
                Cell(f"{size(run.sent('bytes_up'))} / {size(run.sent('bytes_down'))}"),
                Cell(percent(run.final.get("harmonic_mean"))),
                Cell(printable(str(run.environment.get("device", "?")))),
            ]
        )
    headings = ("run", "method", "seed", "rounds", "state", "time", "up / down", "HM in %", "device")
    return Table(headings, rows, "Run folders", numbers=False)


def changed_settings(setting: SettingRuns) -> Table:
    """Settings of each method that are not the defaults."""
    defaults = flatten(experiment_to_dict(Experiment()))
    groups = [(method.label, method.runs[0]) for method in setting.methods] or [("Zero-shot", setting.first)]
    own = [flatten(experiment_to_dict(run.experiment)) for _, run in groups]
    keys = [
        key
        for key, default in defaults.items()
        if key not in ("seed", "method") and any(values[key] != default for values in own)
    ]
    rows = []
    for key in keys:
        values = [*(each[key] for each in own), defaults[key]]
        shown = shown_values(key, values)
        rows.append([Cell(printable(text)) for text in (key, *(shown[value] for value in values))])
    return Table(("setting", *(label for label, _ in groups), "default"), rows, "Settings that are not the defaults")


def zero_shot_by_domain(run: Run) -> list[tuple[float | None, float | None]]:
    """Base and novel accuracy of zero-shot CLIP by domain, of a run that kept predictions."""
    predictions = run.predictions
    if predictions is None:
        return []
    hits, novel = predictions.zero_shot_hits, predictions.labels >= run.base_classes
    found = [
        [accuracy(hits[(predictions.domains == domain) & (novel == side)]) for side in (False, True)]
        for domain in range(len(run.data["domains"]))
    ]
    return [(_known(base), _known(other)) for base, other in found]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _zero_shot_line(setting: SettingRuns) -> Line:
    return Line("Zero-shot", [spread_of(scores[key] for scores in setting.zero_shot) for key, _ in HEADLINE])


def _halves(setting: SettingRuns) -> tuple[int, ...]:
    """Positions in a (base, novel) pair that are there."""
    return (0, 1) if setting.has_novel_classes else (0,)


def _with_best(lines: Sequence[Line]) -> list[list[Cell]]:
    """Cells of the lines; the highest means of a column, as they are shown, are the best."""
    competing = [line for line in lines if line.competes]
    columns = zip(*(line.spreads for line in competing), strict=True)
    highest = [max((s.mean for s in column if s.mean is not None), default=None) for column in columns]
    return [[Cell(line.label), *_cells(line, highest, len(competing))] for line in lines]


def _cells(line: Line, highest: Sequence[float | None], rivals: int) -> Iterable[Cell]:
    for spread, best in zip(line.spreads, highest or [None] * len(line.spreads), strict=True):
        shown = spread.mean is not None and best is not None and percent(spread.mean) == percent(best)
        yield Cell(percent(spread.mean), spread.plus_minus, best=shown and line.competes and rivals > 1)
