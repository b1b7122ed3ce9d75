"""Scores and costs of the methods of a setting, and their means over the data sets of a condition."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from feddtl.config import Experiment
from feddtl.methods.catalog import METHODS
from feddtl.records import GLOBAL_SCORES, SCORES
from feddtl.results.bootstrap import Replicates, difference_interval, mean_replicates
from feddtl.results.grouping import MethodRuns, SettingRuns, by_experiment, settings_of
from feddtl.results.paired import (
    BySeed,
    Compared,
    HitsBySeed,
    Row,
    by_score,
    client_model_hits,
    compared,
    compared_in,
    final_hits,
    is_personal,
    zero_shot_hits,
)
from feddtl.results.run import RunResult
from feddtl.results.settings import Condition, Setting, column_titles
from feddtl.results.statistics import Difference, Interval, Spread, paired_difference, spread_of

COSTS = ("trainable_parameters", "bytes_up", "bytes_down", "seconds")
ZERO_SHOT = METHODS["zero-shot"].title


@dataclass(frozen=True)
class MethodScores:
    """One method in one setting.

    Attributes:
        label: Title of the method.
        final: Accuracy in % after the last round by score and seed, without scores that no run has.
        client_models: The same for the clients' own models, mean over clients; of zero-shot, which has no others, those
            of its one model, where another row of the setting has some.
        costs: By `COSTS`, over seeds, without costs that no run has.
        experiment: With the settings of all seeds; None for zero-shot as the runs of other methods scored it.
        intervals: Of the means of `final`, over seeds and test images, where hits are known by image.
        client_model_intervals: Of the means of `client_models`.
        differences: By score, minus the method of the setting with the highest harmonic mean, over shared seeds; empty
            for that method.
        leads: Scores of `final` in which this method is distinguishable from every other one and above it.
        client_models_lead: The same of `client_models`.
        client_model_differences: As `differences`, between the clients' own models.
        personal: Whether each client keeps a part of its model, which `final` leaves out but for the local accuracy.
        replicates: The scores in resamples of the test images.
    """

    label: str
    final: Mapping[str, BySeed]
    client_models: Mapping[str, BySeed]
    costs: Mapping[str, Spread]
    experiment: Experiment | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    client_model_intervals: Mapping[str, Interval] = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)
    leads: frozenset[str] = frozenset()
    client_models_lead: frozenset[str] = frozenset()
    client_model_differences: Mapping[str, Difference] = field(default_factory=dict)
    personal: bool = False
    replicates: Replicates = field(default=Replicates(()), compare=False, repr=False)

    @property
    def trained(self) -> Experiment | None:
        """The experiment of a method that trains; else None."""
        return self.experiment if self.experiment and self.experiment.trains else None

    @property
    def learning_rate(self) -> float | None:
        """On the clients; None for a method that does not train."""
        return self.trained.local.learning_rate if self.trained else None

    @property
    def rounds(self) -> int | None:
        """Rounds of training; None for zero-shot."""
        return self.trained.rounds if self.trained else None

    @property
    def difference(self) -> Difference | None:
        """Harmonic mean minus the best one; None for the best."""
        return self.differences.get("harmonic_mean")


@dataclass(frozen=True)
class SettingScores:
    """Every method of a setting.

    Attributes:
        setting: What the methods have in common.
        title: Its name, different for each setting.
        methods: Zero-shot first, then methods in the order of their experiments.
        best: Label of the method with the highest harmonic mean, or base accuracy without novel classes; '' if none
            was measured.
        best_client_models: The same by the clients' own models.
        few_images: Which accuracies are of fewer than ten images.
    """

    setting: Setting
    title: str
    methods: tuple[MethodScores, ...]
    best: str
    best_client_models: str = ""
    few_images: tuple[str, ...] = ()

    @property
    def criterion(self) -> str:
        """See `criterion_of`."""
        return criterion_of(method.final for method in self.methods)


@dataclass(frozen=True)
class ConditionScores:
    """The mean over the data sets of a condition.

    Attributes:
        condition: What the settings of the data sets have in common.
        title: Its short name.
        datasets: Names of the data sets.
        methods: Mean over data sets by label, score and seed, for the methods and seeds that every data set has. The
            harmonic mean is computed for each data set, then averaged.
        intervals: By label and score, of the means over seeds, seeds and test images of all data sets resampled.
        leads: By label, the scores in which the method is distinguishable from every other one and above it.
        common: What all conditions have in common, which their titles leave out.
        personal: Labels of the methods whose clients keep a part of their model.
        experiments: By label, those of all data sets.
    """

    condition: Condition
    title: str
    datasets: tuple[str, ...]
    methods: Mapping[str, Mapping[str, BySeed]]
    intervals: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    leads: Mapping[str, frozenset[str]] = field(default_factory=dict)
    common: str = ""
    personal: frozenset[str] = frozenset()
    experiments: Mapping[str, tuple[Experiment, ...]] = field(default_factory=dict)


def setting_scores(runs: Sequence[RunResult], labels: Collection[str] = ()) -> tuple[SettingScores, ...]:
    """Scores of every setting among finished runs.

    Args:
        runs: All runs.
        labels: Only the methods with these labels, and only settings that have any; empty for all.
    """
    found = (_setting_scores(group, labels) for group in settings_of(runs, by_experiment))
    return tuple(setting for setting in found if setting.methods)


def condition_scores(settings: Sequence[SettingScores]) -> tuple[ConditionScores, ...]:
    """Means over data sets, one for each condition.

    Settings of one data set, which differ in prompt or domains, are no sample of data sets: each has its own scores.
    """
    groups: dict[Condition, list[SettingScores]] = {}
    for setting in settings:
        groups.setdefault(setting.setting.condition, []).append(setting)
    columns: list[list[SettingScores]] = []
    for members in groups.values():
        distinct = len({member.setting.dataset for member in members}) == len(members)
        columns += [members] if distinct else [[member] for member in members]
    common, titles = column_titles([[member.setting for member in members] for members in columns])
    return tuple(_condition_scores(title, common, members) for title, members in zip(titles, columns, strict=True))


def _condition_scores(title: str, common: str, settings: Sequence[SettingScores]) -> ConditionScores:
    means = {method.label: _mean_over_data(method.label, settings) for method in settings[0].methods}
    means = {label: scores for label, scores in means.items() if scores}
    rows = [Row(label, scores, {}) for label, scores in means.items()]
    resamples = [mean_replicates([one.replicates for one in _rows_of(label, settings)]) for label in means]
    found = dict(zip(means, compared_in(rows, resamples), strict=True))
    return ConditionScores(
        settings[0].setting.condition,
        title,
        tuple(setting.setting.dataset for setting in settings),
        means,
        {label: row.intervals for label, row in found.items()},
        {label: row.leads for label, row in found.items()},
        common,
        frozenset(method.label for setting in settings for method in setting.methods if method.personal),
        {label: tuple(one.experiment for one in _rows_of(label, settings) if one.experiment) for label in means},
    )


def _setting_scores(group: SettingRuns, labels: Collection[str]) -> SettingScores:
    rows = [_Row(_method_scores(one), final_hits(one.runs), client_model_hits(one.runs)) for one in group.methods]
    if all(run.experiment.trains for run in group.runs):
        zero_shot = MethodScores(ZERO_SHOT, by_score(group.zero_shot), {}, {})
        rows.insert(0, _Row(zero_shot, zero_shot_hits(group.runs, group.zero_shot), {}))
    rows = [row for row in rows if not labels or row.scores.label in labels]
    rows.sort(key=lambda row: not row.scores.label.startswith(ZERO_SHOT))
    if any(row.scores.client_models for row in rows):
        rows = [row if row.scores.rounds else _with_one_model_for_all(row) for row in rows]
    return _compared_setting(group, rows)


class _Row(NamedTuple):
    """A row without intervals, with hits by seed of the final models and of the clients' own models."""

    scores: MethodScores
    final: HitsBySeed
    client_models: HitsBySeed


def _with_one_model_for_all(row: _Row) -> _Row:
    """Zero-shot among the clients' own models: every client has its one model."""
    own = {key: values for key, values in row.scores.final.items() if key in GLOBAL_SCORES}
    return _Row(replace(row.scores, client_models=own), row.final, row.final)


def _compared_setting(group: SettingRuns, rows: Sequence[_Row]) -> SettingScores:
    """The rows with intervals, with their differences to the best, and with who leads."""
    final_rows = [Row(one.scores.label, one.scores.final, one.final) for one in rows]
    own_rows = [Row(one.scores.label, one.scores.client_models, one.client_models) for one in rows]
    final, own = (compared(each, group.setting.dataset) for each in (final_rows, own_rows))
    best, differences = _to_the_best(final_rows, final)
    best_own, own_differences = _to_the_best(own_rows, own)
    methods = [
        replace(
            row.scores,
            intervals=of_final.intervals,
            client_model_intervals=of_own.intervals,
            differences=differences[index],
            client_model_differences=own_differences[index],
            leads=of_final.leads,
            client_models_lead=of_own.leads,
            replicates=of_final.replicates,
        )
        for index, (row, of_final, of_own) in enumerate(zip(rows, final, own, strict=True))
    ]
    few = dict.fromkeys(run.summary.few_images for run in group.runs if run.summary and run.summary.few_images)
    return SettingScores(group.setting, group.title, tuple(methods), best, best_own, tuple(few))


def criterion_of(rows: Iterable[Mapping[str, BySeed]]) -> str:
    """The score by which the rows of a table are ordered: the harmonic mean, or base accuracy without novel classes."""
    return "harmonic_mean" if any(scores.get("harmonic_mean") for scores in rows) else "base"


def _to_the_best(rows: Sequence[Row], found: Sequence[Compared]) -> tuple[str, list[dict[str, Difference]]]:
    """Label of the best row by `criterion_of`, or '', and by score the difference of each other row to it."""
    key = criterion_of(row.scores for row in rows)
    measured = [index for index, row in enumerate(rows) if row.scores.get(key)]
    if not measured:
        return "", [{} for _ in rows]
    best = max(measured, key=lambda index: statistics.mean(rows[index].scores[key].values()))
    differences = [
        {} if index == best else _differences(row, own.replicates, rows[best], found[best].replicates)
        for index, (row, own) in enumerate(zip(rows, found, strict=True))
    ]
    return rows[best].label, differences


def _differences(row: Row, own: Replicates, best: Row, best_own: Replicates) -> dict[str, Difference]:
    found = {}
    for key, values in row.scores.items():
        interval = difference_interval(own, best_own, key)
        if (difference := paired_difference(values, best.scores.get(key, {}), interval)) is not None:
            found[key] = difference
    return found


def _method_scores(method: MethodRuns) -> MethodScores:
    experiment = method.runs[0].experiment
    spreads = {key: spread_of(_costs(method.runs, key)) for key in COSTS}
    return MethodScores(
        method.label,
        by_score({run.seed: run.final for run in method.runs}),
        by_score({run.seed: run.client_models for run in method.runs}),
        {key: spread for key, spread in spreads.items() if spread.n},
        experiment,
        personal=any(map(is_personal, method.runs)),
    )


def _costs(runs: Iterable[RunResult], key: str) -> list[float]:
    """A cost of each run that has it; of parameters the sum over all places where they are trained."""
    found = [cost for run in runs if (cost := getattr(run.finished, key))]
    return [sum(cost.values()) if isinstance(cost, Mapping) else cost for cost in found]


def _mean_over_data(label: str, settings: Sequence[SettingScores]) -> dict[str, BySeed]:
    """By score and seed; empty if a data set lacks the method, because a mean over fewer is not comparable."""
    members = _rows_of(label, settings)
    if len(members) < len(settings):
        return {}
    means: dict[str, BySeed] = {}
    for key in SCORES:
        values = [method.final.get(key, {}) for method in members]
        shared = [seed for seed in values[0] if all(seed in one for one in values)]
        if shared:
            means[key] = {seed: statistics.mean(one[seed] for one in values) for seed in shared}
    return means


def _rows_of(label: str, settings: Sequence[SettingScores]) -> list[MethodScores]:
    """The rows of a method, at most one for each data set."""
    return [method for setting in settings for method in setting.methods if method.label == label]
