"""Numbers of a setting as tables: means over seeds, intervals or deviations, and who leads in bold."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from feddtl.config import DataConfig, Experiment
from feddtl.config.data import CLIENTS
from feddtl.evaluate import accuracy
from feddtl.experiment_file import settings_by_key
from feddtl.methods.catalog import METHODS
from feddtl.records import GLOBAL_SCORES, SCORE_HEADINGS, SCORES
from feddtl.report.accuracy import local_by_client, zero_shot_by_client
from feddtl.report.missing import final_coverage, zero_shot_coverage
from feddtl.results.grouping import SettingRuns
from feddtl.results.labels import shown_values
from feddtl.results.paired import (
    PERSONAL,
    Row,
    by_score,
    client_model_hits,
    compared,
    final_hits,
    interval_notes,
    is_personal,
    personal_notes,
    zero_shot_hits,
)
from feddtl.results.run import RunResult
from feddtl.results.statistics import Spread, spread_of
from feddtl.results.tables import Cell, Column, Table, score_cells
from feddtl.units import duration, percent, printable, size

ZERO_SHOT = METHODS["zero-shot"].title


@dataclass(frozen=True)
class ScoreRow:
    """A row of a table, with a spread for each column."""

    label: str
    spreads: Sequence[Spread]


def score_table(title: str, headings: Iterable[str], rows: Sequence[ScoreRow]) -> Table:
    """The scores of some rows, with their deviations over seeds."""
    cells = zip(*(score_cells(column) for column in zip(*(row.spreads for row in rows), strict=True)), strict=True)
    return Table(
        title,
        tuple(map(Column, headings)),
        tuple((row.label, tuple(own)) for row, own in zip(rows, cells, strict=True)),
    )


def interval_table(title: str, keys: Sequence[str], rows: Sequence[Row], setting: SettingRuns) -> Table:
    """The scores of some rows with their intervals, and those in bold that are above every other row's."""
    found = compared(rows, setting.setting.dataset)
    columns = [
        score_cells(
            [spread_of(row.scores.get(key, {}).values()) for row in rows],
            [own.intervals.get(key) for own in found],
            [key in own.leads for own in found],
        )
        for key in keys
    ]
    seeds = sorted({seed for row in rows for values in row.scores.values() for seed in values})
    known = {row.label: bool(own.intervals) for row, own in zip(rows, found, strict=True) if row.scores}
    return Table(
        title,
        tuple(Column(SCORE_HEADINGS[key]) for key in keys),
        tuple((row.label, tuple(cells)) for row, cells in zip(rows, zip(*columns, strict=True), strict=True)),
        tuple(interval_notes(seeds, known, setting.scored)),
    )


def headline(setting: SettingRuns) -> Table:
    """Local, base, novel and harmonic mean of zero-shot and every method."""
    seeds, before = len(setting.seeds), setting.zero_shot
    fewer_images = _coverage_of((run for run in setting.runs if run.summary), zero_shot_coverage)
    label = f"{ZERO_SHOT} ({fewer_images})" if fewer_images else ZERO_SHOT
    rows = [Row(label, by_score(before), zero_shot_hits(setting.runs, before))] if before else []
    for method in setting.methods:
        fewer = f"{len(method.runs)} of {seeds} seeds" if len(method.runs) < seeds else ""
        notes = "; ".join(filter(None, (fewer, method.note, _coverage_of(method.counted, final_coverage))))
        label = f"{method.label} ({notes})" if notes else method.label
        finished = any(run.summary for run in method.counted)
        label += PERSONAL if any(map(is_personal, method.counted)) else ""
        scores = by_score({run.seed: run.final for run in method.counted})
        rows.append(Row(label, scores, final_hits(method.counted), competes=finished))
    title = f"Accuracy in %{setting.on_held_back} after the last round"
    table = interval_table(title, SCORES, rows, setting)
    runs = [run for method in setting.methods for run in method.counted]
    own_models = any(run.client_models for run in runs)
    return replace(
        table,
        notes=(*table.notes, *personal_notes(any_personal=any(map(is_personal, runs)), own_models=own_models)),
    )


def _coverage_of(runs: Iterable[RunResult], coverage: Callable[[RunResult], str]) -> str:
    """'of 52 of 78 base images; client 3 missing', with the seed where the runs differ; empty for whole numbers."""
    found = {run.seed: coverage(run) for run in runs}
    if len(set(found.values())) == 1:
        [text] = set(found.values())
        return f"of {text}" if text else ""
    return "; ".join(f"seed {seed}: of {text}" for seed, text in sorted(found.items()) if text)


def client_models(setting: SettingRuns) -> Table | None:
    """Base, novel and harmonic mean of the clients' own models and of zero-shot, the same one for every client.

    Returns:
        None where the clients' own models were not scored.
    """
    before = setting.zero_shot
    rows = [
        Row(
            method.label,
            by_score({run.seed: run.client_models for run in method.counted}),
            client_model_hits(method.counted),
        )
        for method in setting.methods
        if any(run.client_models for run in method.counted)
    ]
    title = f"Accuracy in %{setting.on_held_back} of the clients' own models, mean over the clients"
    if not rows:
        return None
    zero_shot = Row(ZERO_SHOT, by_score(before), zero_shot_hits(setting.runs, before))
    return interval_table(title, GLOBAL_SCORES, [zero_shot, *rows], setting)


def domains(setting: SettingRuns) -> Table | None:
    """Base and novel by domain; None where there is one domain."""
    names = list(setting.first.data["domains"])
    if len(names) < 2:
        return None
    halves = (0, 1) if setting.has_novel_classes else (0,)

    def spreads(runs: Iterable[Mapping[str, Sequence[float | None]]]) -> list[Spread]:
        found = list(runs)
        return [spread_of(one.get(name, (None, None))[half] for one in found) for name in names for half in halves]

    rows = [ScoreRow(ZERO_SHOT, spreads(map(zero_shot_by_domain, setting.with_predictions)))]
    for method in setting.methods:
        final = [run.summary.final_domains for run in method.counted if run.summary]
        if any(final):
            rows.append(ScoreRow(method.label, spreads(final)))
    headings = [printable(f"{name}, {('base', 'novel')[half]}") for name in names for half in halves]
    return score_table(f"Accuracy in % by domain of the {setting.scored}", headings, rows)


def clients(setting: SettingRuns) -> Table | None:
    """Worst, mean and best local accuracy over the clients; None where it is not recorded."""
    noun = setting.first.client_names.noun
    summaries: dict[str, Callable[[Collection[float]], float]] = {
        f"worst {noun}": min,
        "mean": lambda values: sum(values) / len(values),
        f"best {noun}": max,
    }
    by_client = {ZERO_SHOT: [zero_shot_by_client(run) for run in setting.with_predictions]}
    by_client |= {method.label: [local_by_client(run) for run in method.counted] for method in setting.methods}
    rows = [
        ScoreRow(label, [spread_of(function(one.values()) for one in found if one) for function in summaries.values()])
        for label, found in by_client.items()
        if any(found)
    ]
    title = f"Local accuracy in %{setting.on_held_back} over the {noun}s of the last scored round"
    return score_table(title, summaries, rows) if rows else None


def runs(collected: Iterable[RunResult]) -> Table:
    """A row for each run folder."""
    headings = ("method", "seed", "rounds", "state", "time", "up / down", "HM in %", "device")
    return Table(
        "Run folders",
        tuple(map(Column, headings)),
        tuple((run.name, tuple(map(Cell, _texts_of_run(run)))) for run in collected),
        corner="run",
    )


def _texts_of_run(run: RunResult) -> tuple[str, ...]:
    rounds = run.summary.rounds if run.summary else len(run.records)
    return (
        run.experiment.title,
        str(run.seed),
        str(rounds),
        "finished" if run.summary else f"unfinished, {rounds} of {run.experiment.rounds} rounds",
        duration(sum(run.seconds.values())),
        f"{size(run.sent('bytes_up'))} / {size(run.sent('bytes_down'))}",
        percent(run.final.get("harmonic_mean")),
        printable(str(run.environment.get("device", "?"))),
    )


def changed_settings(setting: SettingRuns) -> Table:
    """Settings of each method that are not the defaults."""
    # Runs have the number of clients that 'auto' stands for.
    defaults = settings_by_key(Experiment(data=DataConfig(clients=CLIENTS)))
    groups = [(method.label, method.runs[0]) for method in setting.methods] or [(ZERO_SHOT, setting.first)]
    own = [settings_by_key(run.experiment) for _, run in groups]
    rows = []
    for key, default in defaults.items():
        values = [*(settings[key] for settings in own), default]
        if key not in ("seed", "method") and any(value != default for value in values):
            shown = shown_values(key, values)
            rows.append((printable(key), tuple(Cell(printable(shown[value])) for value in values)))
    columns = [Column(label) for label, _ in groups]
    return Table("Settings that differ from the defaults", (*columns, Column("default")), tuple(rows), corner="setting")


def zero_shot_by_domain(run: RunResult) -> dict[str, tuple[float | None, float | None]]:
    """(base, novel) accuracy of zero-shot CLIP by domain; empty where the run kept no predictions."""
    predictions = run.predictions
    if predictions is None:
        return {}
    hits, novel = predictions.zero_shot_hits, predictions.labels >= run.base_classes

    def scored(domain: int, half: bool) -> float | None:
        value = accuracy(hits[(predictions.domains == domain) & (novel == half)])
        return None if math.isnan(value) else value

    return {name: (scored(domain, False), scored(domain, True)) for domain, name in enumerate(run.data["domains"])}
