"""The tables of a comparison: one for each setting, and means over data sets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from feddtl.comparison.choices import Tuned
from feddtl.comparison.chosen_table import heading, points_note
from feddtl.comparison.effect import has_effect
from feddtl.comparison.paper import (
    CITATION,
    DOMAINNET,
    PaperScores,
    PaperTable,
    different_rows,
    paper_key,
    paper_table,
)
from feddtl.comparison.scores import ConditionScores, MethodScores, SettingScores
from feddtl.experiment_file import settings_by_key
from feddtl.records import GLOBAL_SCORES, SCORE_HEADINGS
from feddtl.results.paired import PERSONAL, BySeed, interval_notes, personal_notes
from feddtl.results.statistics import Difference, Interval, spread_of
from feddtl.results.tables import NOTHING, Cell, Column, Table, score_cells
from feddtl.units import listed, megabytes, value_text

PAPER = "Paper"
DIFFERENCES = ("harmonic_mean",)
OF_NOVEL = (SCORE_HEADINGS["novel"], SCORE_HEADINGS["harmonic_mean"])
MEAN_NOTE = (
    "HM is computed for each data set, then averaged; a method without results for one of the data sets has no mean."
)


def comparison_tables(
    settings: Sequence[SettingScores],
    conditions: Sequence[ConditionScores],
    *,
    tuned: Tuned | None = None,
    differences: Sequence[str] = DIFFERENCES,
) -> tuple[Table, ...]:
    """A summary of several settings; for each setting its table, and that of the clients' own models.

    Args:
        settings: The rows of each setting.
        conditions: The means over data sets.
        tuned: The settings that were chosen for this comparison, so that the tables show them.
        differences: Scores whose differences to the row with the best harmonic mean are columns.
    """
    tables = [summary_table(own) for own in _by_what_is_scored(conditions)] if len(settings) > 1 else []
    for setting in settings:
        tables.append(setting_table(setting, tuned=tuned, differences=differences))
        if any(method.client_models for method in setting.methods):
            tables.append(client_models_table(setting, differences))
    return tuple(tables)


def _by_what_is_scored(conditions: Sequence[ConditionScores]) -> list[list[ConditionScores]]:
    """Conditions on test images and on held-back training images apart: their numbers never share a table."""
    groups: dict[str, list[ConditionScores]] = {}
    for condition in conditions:
        groups.setdefault(condition.condition.scored, []).append(condition)
    return list(groups.values())


def setting_table(
    setting: SettingScores, *, tuned: Tuned | None = None, differences: Sequence[str] = DIFFERENCES
) -> Table:
    """Accuracies, differences to the best, costs, and the paper's ablation beside an ablation.

    Args:
        setting: The rows.
        tuned: The chosen settings, each of which is a column.
        differences: Scores whose differences to the row with the best harmonic mean are columns.
    """
    methods = setting.methods
    columns = [
        *_score_columns([_Scored(one.final, one.intervals, one.leads) for one in methods], tuple(SCORE_HEADINGS)),
        *(
            (
                Column(f"Δ {SCORE_HEADINGS[key]}"),
                [_difference(one.differences, key, best=_is_best(one.label, key, setting)) for one in methods],
            )
            for key in _measured(differences, setting)
        ),
        *(
            [(Column("Rounds"), [Cell(_rounds(one)) for one in methods])]
            if setting.setting.condition.rounds is None
            else []
        ),
        *(
            (Column(heading(key)), [Cell(_chosen(one, key)) for one in methods])
            for key in (tuned.grids if tuned else ())
        ),
        *((Column(heading), [Cell(_cost(one, key, show)) for one in methods]) for heading, key, show in COST_COLUMNS),
    ]
    labels = [method.label for method in methods]
    paper = paper_table(setting.setting.condition, labels, mean_over_data=False)
    different = different_rows({one.label: [one.experiment] for one in methods if one.experiment})
    columns += _paper_columns(paper, labels, different, PAPER)
    return _table(
        f"Accuracy in %: {setting.title}",
        _marked(labels, [method.label for method in methods if method.personal]),
        columns,
        [
            *_held_back_note(setting),
            *_interval_notes(setting),
            *_difference_notes([method.differences for method in methods], setting.criterion),
            *personal_notes(
                any_personal=any(method.personal for method in methods),
                own_models=any(method.client_models for method in methods),
            ),
            *_tuned_note(tuned),
            *_paper_notes(paper, different),
            *_domainnet_note(setting, different),
            *setting.few_images,
        ],
    )


def client_models_table(setting: SettingScores, differences: Sequence[str] = DIFFERENCES) -> Table:
    """The clients' own models, each scored on all test images, mean over clients; arguments as `setting_table`."""
    methods = [method for method in setting.methods if method.client_models]
    rows = [_Scored(one.client_models, one.client_model_intervals, one.client_models_lead) for one in methods]
    found = [method.client_model_differences for method in methods]
    best = [method.label == setting.best_client_models for method in methods]
    columns = _score_columns(rows, GLOBAL_SCORES)
    for key in _measured(differences, setting):
        is_criterion = key == setting.criterion
        cells = [_difference(own, key, best=leads and is_criterion) for own, leads in zip(found, best, strict=True)]
        columns.append((Column(f"Δ {SCORE_HEADINGS[key]}"), cells))
    return _table(
        f"Mean over the clients' own models: {setting.title}",
        [method.label for method in methods],
        columns,
        [
            f"Each model on all {setting.setting.condition.scored}, after the last round; "
            "HM is computed from the means over clients. Zero-shot: every client has the same model.",
            *_difference_notes(found, setting.criterion),
        ],
    )


def summary_table(conditions: Sequence[ConditionScores]) -> Table:
    """For each method and condition the mean over data sets, with the paper's mean beside it."""
    labels = list(dict.fromkeys(label for condition in conditions for label in condition.methods))
    columns: list[tuple[Column, list[Cell]]] = []
    notes: list[str] = []
    several_anywhere = any(len(condition.datasets) > 1 for condition in conditions)
    for condition in conditions:
        rows = [
            _Scored(
                condition.methods.get(label, {}),
                condition.intervals.get(label, {}),
                condition.leads.get(label, frozenset()),
            )
            for label in labels
        ]
        columns += _score_columns(rows, tuple(SCORE_HEADINGS), condition.title)
        several = len(condition.datasets) > 1
        if several:
            notes.append(f"{condition.title}: mean over {listed(condition.datasets)}.")
        elif several_anywhere:
            notes.append(f"{condition.title}: the data set {condition.datasets[0]}.")
        if several:
            paper = paper_table(condition.condition, labels, mean_over_data=True)
            different = different_rows(condition.experiments)
            columns += _paper_columns(paper, labels, different, f"{PAPER}, {condition.title}")
            notes += [MEAN_NOTE, *_paper_notes(paper, different)]
    notes += _summary_notes(conditions)
    held_back = {condition.condition.scored for condition in conditions if condition.condition.held_back}
    where = "".join(f" on {scored}" for scored in held_back)
    personal = frozenset().union(*(condition.personal for condition in conditions))
    notes += personal_notes(any_personal=bool(personal), own_models=False)
    common = f": {conditions[0].common}" if conditions[0].common else ""
    title = f"Accuracy in %{where} by condition{common}"
    return _table(title, _marked(labels, personal), columns, list(dict.fromkeys(notes)))


def _marked(labels: Sequence[str], personal: Collection[str]) -> list[str]:
    """The labels of personal methods with their mark."""
    return [label + PERSONAL if label in personal else label for label in labels]


def _summary_notes(conditions: Sequence[ConditionScores]) -> list[str]:
    rows = [(label, scores, one.intervals) for one in conditions for label, scores in one.methods.items()]
    seeds = {seed for _, scores, _ in rows for values in scores.values() for seed in values}
    known: dict[str, bool] = {}
    for label, _, found in rows:
        known[label] = known.get(label, True) and bool(found.get(label))
    return interval_notes(sorted(seeds), known, conditions[0].condition.scored)


def _table(
    title: str, labels: Sequence[str], columns: Sequence[tuple[Column, Sequence[Cell]]], notes: Sequence[str]
) -> Table:
    """A table without empty columns, but for those that need novel classes: a dash says that none is scored."""
    kept = [
        (column, cells)
        for column, cells in columns
        if any(cell.text not in ("", NOTHING) for cell in cells) or (not column.group and column.heading in OF_NOVEL)
    ]
    rows = tuple((label, tuple(cells[index] for _, cells in kept)) for index, label in enumerate(labels))
    return Table(title, tuple(column for column, _ in kept), rows, tuple(notes))


class _Scored(NamedTuple):
    """The scores of a row by seed, their intervals, and the scores in which the row leads."""

    scores: Mapping[str, BySeed]
    intervals: Mapping[str, Interval]
    leads: Collection[str]


def _score_columns(rows: Sequence[_Scored], keys: Sequence[str], group: str = "") -> list[tuple[Column, list[Cell]]]:
    return [
        (
            Column(SCORE_HEADINGS[key], group),
            score_cells(
                [spread_of(row.scores.get(key, {}).values()) for row in rows],
                [row.intervals.get(key) for row in rows],
                [key in row.leads for row in rows],
            ),
        )
        for key in keys
    ]


def _chosen(method: MethodScores, key: str) -> str:
    """The value of a setting that was chosen for a method, if it has the setting."""
    if method.experiment is None or not has_effect(method.experiment, key):
        return NOTHING
    return value_text(settings_by_key(method.experiment)[key])


def _tuned_note(tuned: Tuned | None) -> list[str]:
    if tuned is None:
        return []
    names = [f"{heading(key)}: {key}" if heading(key) != key else key for key in tuned.settings]
    chosen = f"{', '.join(names)}, chosen on held-back training images; see the table of chosen settings."
    return [f"{chosen} {points_note(tuned)}"]


def _difference(differences: Mapping[str, Difference], key: str, *, best: bool) -> Cell:
    if best:
        return Cell("best")
    difference = differences.get(key)
    if difference is None:
        return Cell(NOTHING)
    return Cell(signed(difference.mean), difference.interval.text if difference.interval else "")


def _rounds(method: MethodScores) -> str:
    return NOTHING if method.rounds is None else str(method.rounds)


def signed(value: float) -> str:
    """One decimal with its sign, a true minus; no sign if it rounds to zero."""
    return f"{value:+.1f}".replace("-", "−") if round(value, 1) else "0.0"


COST_COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("Trainable", "trainable_parameters", lambda value: f"{value:,.0f}"),
    ("MB up", "bytes_up", megabytes),
    ("MB down", "bytes_down", megabytes),
    ("Seconds", "seconds", lambda value: f"{value:.0f}"),
)


def _cost(method: MethodScores, key: str, show: Callable[[float], str]) -> str:
    mean = method.costs[key].mean if key in method.costs else None
    return NOTHING if mean is None else show(mean)


def _paper_columns(
    paper: PaperTable | None, labels: Sequence[str], different: Collection[str], group: str
) -> list[tuple[Column, list[Cell]]]:
    """The paper's numbers beside the rows that have its settings; none beside the rows that are `different`."""
    shown = paper.without(different) if paper else None
    if shown is None:
        return []
    scores = [shown.rows.get(label, PaperScores("", "")) for label in labels]
    return [(Column(SCORE_HEADINGS[key], group), [Cell(getattr(one, key)) for one in scores]) for key in GLOBAL_SCORES]


def _paper_notes(paper: PaperTable | None, different: Mapping[str, str]) -> list[str]:
    if paper is None:
        return []
    notes = [f"{PAPER}: {CITATION}, {paper.data}; not measured here."] if paper.without(different) else []
    left_out = [f"{label} has {text}" for label, text in different.items() if label in paper.rows]
    return [*notes, f"{PAPER}: no number beside other settings. {'; '.join(left_out)}."] if left_out else notes


def _domainnet_note(setting: SettingScores, different: Collection[str]) -> list[str]:
    found = DOMAINNET.get(paper_key(setting.setting.condition), {})
    if setting.setting.dataset.lower() != "domainnet":
        return []
    listed = ", ".join(f"{label} {accuracy}" for label, accuracy in found.items() if label not in different)
    return [f"{PAPER}: {CITATION}, DomainNet, accuracy: {listed}; not measured here."] if listed else []


def _held_back_note(setting: SettingScores) -> list[str]:
    condition = setting.setting.condition
    return [f"Scored on {condition.scored}: not comparable with numbers on test images."] if condition.held_back else []


def _interval_notes(setting: SettingScores) -> list[str]:
    measured = [method for method in setting.methods if method.final]
    seeds = {seed for method in measured for values in method.final.values() for seed in values}
    known = {method.label: bool(method.intervals) for method in measured}
    return interval_notes(sorted(seeds), known, setting.setting.condition.scored)


def _measured(differences: Sequence[str], setting: SettingScores) -> list[str]:
    """The scores whose differences are columns; base accuracy in place of a harmonic mean that was not measured."""
    keys = [setting.criterion if key == "harmonic_mean" else key for key in differences]
    return list(dict.fromkeys(keys))


def _is_best(label: str, key: str, setting: SettingScores) -> bool:
    """Whether a row is the one to which the differences of the criterion are."""
    return label == setting.best and key == setting.criterion


def _difference_notes(differences: Sequence[Mapping[str, Difference]], criterion: str) -> list[str]:
    if not any(differences):
        return []
    best = "HM" if criterion == "harmonic_mean" else "base accuracy"
    note = f"Δ: minus the row with the best {best}, over the seeds that both have"
    if not any(one.interval for own in differences for one in own.values()):
        return [f"{note}."]
    return [
        f"{note}, with the 95 % interval of the paired difference: both rows on the same resampled images and seeds. "
        "It is not corrected for the number of rows."
    ]
