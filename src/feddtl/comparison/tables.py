"""Tables as text cells, the same for Markdown, LaTeX and the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from feddtl.comparison.paper import CITATION, DOMAINNET, PaperScores, PaperTable, paper_table, place_of
from feddtl.comparison.results import BySeed, ConditionResults, MethodResults, SettingResults
from feddtl.spread import spread_of
from feddtl.units import megabytes

NOTHING = "–"
HEADINGS = {"local": "Local", "base": "Base", "novel": "Novel", "harmonic_mean": "HM"}
OF_THE_CLIENTS = ("base", "novel", "harmonic_mean")
PAPER = "Paper"
MEAN_NOTE = "HM is that of each data set, then averaged; a method that lacks one of the data sets has no mean."


@dataclass(frozen=True)
class Column:
    """Head of a column; neighbours with the same `group` stand under it."""

    heading: str
    group: str = ""

    @property
    def text(self) -> str:
        """Both in one text."""
        return f"{self.group}: {self.heading}" if self.group else self.heading


@dataclass(frozen=True)
class Cell:
    """Text of a cell, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Title, columns behind the first one, rows, and what a reader must know.

    Attributes:
        title: Above the table.
        columns: Heads, without that of the labels.
        rows: A label, and a cell for each column.
        notes: Below the table.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    notes: tuple[str, ...] = ()


def comparison_tables(settings: Sequence[SettingResults], conditions: Sequence[ConditionResults]) -> tuple[Table, ...]:
    """The summary where there are several settings; for each setting its table, and that of the clients' own models."""
    tables = [summary_table(conditions)] if len(settings) > 1 else []
    for results in settings:
        tables.append(setting_table(results))
        if any(row.client_models for row in results.rows):
            tables.append(client_models_table(results))
    return tuple(tables)


def setting_table(results: SettingResults) -> Table:
    """Accuracies, differences to the best, costs, and the paper's ablation where it is one."""
    rows = results.rows
    columns = [
        *_score_columns([row.final for row in rows], tuple(HEADINGS)),
        (Column("Δ HM"), [Cell(_difference(row, results.best)) for row in rows]),
        (Column("p"), [Cell(_p(row)) for row in rows]),
        *((Column(heading), [Cell(_cost(row, key, show)) for row in rows]) for heading, key, show in COST_COLUMNS),
    ]
    labels = [row.label for row in rows]
    paper = paper_table(results.setting.condition, labels, mean_over_data=False)
    columns += _paper_columns(paper, labels, PAPER)
    seeds = sorted({seed for row in rows for values in row.final.values() for seed in values})
    return _table(
        f"Accuracy in %: {results.title}",
        labels,
        columns,
        [*_seed_note(seeds), *_difference_note(results), *_paper_note(paper), *_domainnet_note(results)],
    )


def client_models_table(results: SettingResults) -> Table:
    """The clients' own models, each scored on all test images, mean over clients."""
    rows = [row for row in results.rows if row.client_models]
    columns = _score_columns([row.client_models for row in rows], OF_THE_CLIENTS)
    return _table(
        f"Mean over the clients' own models: {results.title}",
        [row.label for row in rows],
        columns,
        ["Each on all test images, after the last round; HM is that of the means over clients."],
    )


def summary_table(conditions: Sequence[ConditionResults]) -> Table:
    """Rows of methods, for each condition the mean over its data sets, and the paper's mean beside it."""
    labels = list(dict.fromkeys(label for condition in conditions for label in condition.rows))
    columns: list[tuple[Column, list[Cell]]] = []
    notes: list[str] = []
    for condition in conditions:
        rows = [condition.rows.get(label, {}) for label in labels]
        columns += _score_columns(rows, tuple(HEADINGS), condition.title)
        several = len(condition.datasets) > 1
        notes.append(f"{condition.title}: {'mean over ' if several else ''}{_listed(condition.datasets)}.")
        if several:
            paper = paper_table(condition.condition, labels, mean_over_data=True)
            columns += _paper_columns(paper, labels, f"{PAPER}, {condition.title}")
            notes += [MEAN_NOTE, *_paper_note(paper)]
    return _table("Accuracy in % by condition", labels, columns, list(dict.fromkeys(notes)))


def _table(
    title: str, labels: Sequence[str], columns: Sequence[tuple[Column, Sequence[Cell]]], notes: Sequence[str]
) -> Table:
    """Without the columns in which no row has anything."""
    kept = [(column, cells) for column, cells in columns if any(cell.text not in ("", NOTHING) for cell in cells)]
    rows = tuple((label, tuple(cells[index] for _, cells in kept)) for index, label in enumerate(labels))
    return Table(title, tuple(column for column, _ in kept), rows, tuple(notes))


def _score_columns(
    rows: Sequence[Mapping[str, BySeed]], keys: Sequence[str], group: str = ""
) -> list[tuple[Column, list[Cell]]]:
    return [(Column(HEADINGS[key], group), _score_cells([row.get(key, {}) for row in rows])) for key in keys]


def _score_cells(rows: Sequence[BySeed]) -> list[Cell]:
    """Mean ± standard deviation; the highest mean as it is printed is the best, and so is whatever equals it."""
    printed = [f"{statistics.mean(row.values()):.1f}" if row else NOTHING for row in rows]
    highest = max((float(text) for text in printed if text != NOTHING), default=None)
    return [
        Cell(_mean_and_spread(row), text != NOTHING and float(text) == highest)
        for row, text in zip(rows, printed, strict=True)
    ]


def _mean_and_spread(values: BySeed) -> str:
    spread = spread_of(values.values())
    if spread.mean is None:
        return NOTHING
    return f"{spread.mean:.1f} {spread.plus_minus}".strip()


def _difference(row: MethodResults, best: str) -> str:
    if row.label == best:
        return "best"
    return NOTHING if row.difference is None else signed(row.difference.mean)


def signed(value: float) -> str:
    """One decimal with its sign, a true minus; what rounds to zero has none."""
    return f"{value:+.1f}".replace("-", "−") if round(value, 1) else "0.0"


def _p(row: MethodResults) -> str:
    if row.difference is None or row.difference.p is None:
        return NOTHING
    p = "< 0.001" if row.difference.p < 0.001 else f"{row.difference.p:.3f}"
    return f"{p} (n = {row.difference.n})"


COST_COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("Trainable", "trainable_parameters", lambda value: f"{value:,.0f}"),
    ("MB up", "bytes_up", megabytes),
    ("MB down", "bytes_down", megabytes),
    ("Seconds", "seconds", lambda value: f"{value:.0f}"),
)


def _cost(row: MethodResults, key: str, show: Callable[[float], str]) -> str:
    mean = row.costs[key].mean if key in row.costs else None
    return NOTHING if mean is None else show(mean)


def _paper_columns(paper: PaperTable | None, labels: Sequence[str], group: str) -> list[tuple[Column, list[Cell]]]:
    if paper is None:
        return []
    rows = [paper.rows.get(label, PaperScores("", "")) for label in labels]
    return [(Column(HEADINGS[key], group), [Cell(getattr(row, key)) for row in rows]) for key in OF_THE_CLIENTS]


def _paper_note(paper: PaperTable | None) -> list[str]:
    return [] if paper is None else [f"{PAPER}: {CITATION}, {paper.data}; not measured here."]


def _domainnet_note(results: SettingResults) -> list[str]:
    found = DOMAINNET.get(place_of(results.setting.condition))
    if found is None or results.setting.dataset.lower() != "domainnet":
        return []
    listed = ", ".join(f"{label} {accuracy}" for label, accuracy in found.items())
    return [f"{PAPER}: {CITATION}, DomainNet, accuracy: {listed}; not measured here."]


def _seed_note(seeds: Sequence[int]) -> list[str]:
    if len(seeds) < 2:
        return [f"After the last round, seed {seeds[0]}."] if seeds else []
    return [f"After the last round, mean ± standard deviation over seeds {_listed(list(map(str, seeds)))}."]


def _difference_note(results: SettingResults) -> list[str]:
    if not any(row.difference for row in results.rows):
        return []
    note = "Δ HM: HM minus that of the best row, mean over the seeds that both have"
    if not any(row.difference and row.difference.p is not None for row in results.rows):
        return [f"{note}."]
    return [f"{note}; p: paired t-test over these n seeds, two-sided, not corrected for the number of rows."]


def _listed(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
