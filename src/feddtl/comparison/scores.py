"""Scores and costs of the methods of a setting, and their means over the data sets of a condition."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from feddtl.methods.catalog import METHODS
from feddtl.records import SCORES
from feddtl.results.bootstrap import Replicates, difference_interval, mean_replicates
from feddtl.results.grouping import MethodRuns, SettingRuns, by_experiment, settings_of
from feddtl.results.paired import (
    BySeed,
    HitsBySeed,
    Row,
    by_score,
    client_model_hits,
    compared,
    compared_in,
    final_hits,
    zero_shot_hits,
)
from feddtl.results.run import RunResult
from feddtl.results.settings import Condition, Setting, condition_titles
from feddtl.results.statistics import Difference, Interval, Spread, paired_difference, spread_of

COSTS = ("trainable_parameters", "bytes_up", "bytes_down", "seconds")
ZERO_SHOT = METHODS["zero-shot"].title


@dataclass(frozen=True)
class MethodScores:
    """One method in one setting.

    Attributes:
        label: Title of the method.
        final: Accuracy in % after the last round by score and seed, without scores that no run has.
        client_models: The same for the clients' own models, mean over clients.
        costs: By `COSTS`, over seeds, without costs that no run has.
        learning_rate: On the clients; None for a method that does not train.
        rounds: Rounds of training; None for zero-shot.
        intervals: Of the means of `final`, over seeds and test images, where hits are known by image.
        client_model_intervals: Of the means of `client_models`.
        differences: By score, minus the method of the setting with the highest harmonic mean, over shared seeds; empty
            for that method.
        leads: Scores of `final` in which this method is distinguishable from every other one and above it.
        client_models_lead: The same of `client_models`.
        replicates: The scores in resamples of the test images.
    """

    label: str
    final: Mapping[str, BySeed]
    client_models: Mapping[str, BySeed]
    costs: Mapping[str, Spread]
    learning_rate: float | None = None
    rounds: int | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    client_model_intervals: Mapping[str, Interval] = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)
    leads: frozenset[str] = frozenset()
    client_models_lead: frozenset[str] = frozenset()
    replicates: Replicates = field(default=Replicates(()), compare=False, repr=False)

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
        best: Label of the method with the highest harmonic mean; '' if none was measured.
    """

    setting: Setting
    title: str
    methods: tuple[MethodScores, ...]
    best: str


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
    """

    condition: Condition
    title: str
    datasets: tuple[str, ...]
    methods: Mapping[str, Mapping[str, BySeed]]
    intervals: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    leads: Mapping[str, frozenset[str]] = field(default_factory=dict)


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
    titles = condition_titles(list(groups))
    found: list[ConditionScores] = []
    for condition, members in groups.items():
        distinct = len({member.setting.dataset for member in members}) == len(members)
        for title, part in [(titles[condition], members)] if distinct else [(one.title, [one]) for one in members]:
            found.append(_condition_scores(condition, title, part))
    return tuple(found)


def _condition_scores(condition: Condition, title: str, settings: Sequence[SettingScores]) -> ConditionScores:
    means = {method.label: _mean_over_data(method.label, settings) for method in settings[0].methods}
    means = {label: scores for label, scores in means.items() if scores}
    rows = [Row(label, scores, {}) for label, scores in means.items()]
    resamples = [mean_replicates([one.replicates for one in _rows_of(label, settings)]) for label in means]
    found = dict(zip(means, compared_in(rows, resamples), strict=True))
    return ConditionScores(
        condition,
        title,
        tuple(setting.setting.dataset for setting in settings),
        means,
        {label: row.intervals for label, row in found.items()},
        {label: row.leads for label, row in found.items()},
    )


def _setting_scores(group: SettingRuns, labels: Collection[str]) -> SettingScores:
    rows = [_Row(_method_scores(one), final_hits(one.runs), client_model_hits(one.runs)) for one in group.methods]
    if all(run.experiment.trains for run in group.runs):
        zero_shot = MethodScores(ZERO_SHOT, by_score(group.zero_shot), {}, {})
        rows.insert(0, _Row(zero_shot, zero_shot_hits(group.runs, group.zero_shot), {}))
    rows = [row for row in rows if not labels or row.scores.label in labels]
    rows.sort(key=lambda row: not row.scores.label.startswith(ZERO_SHOT))
    methods = _with_intervals(rows, group.setting.dataset)
    measured = [method for method in methods if method.final.get("harmonic_mean")]
    best = max(measured, key=lambda method: statistics.mean(method.final["harmonic_mean"].values()), default=None)
    if best:
        methods = [one if one is best else replace(one, differences=_differences(one, best)) for one in methods]
    return SettingScores(group.setting, group.title, tuple(methods), best.label if best else "")


class _Row(NamedTuple):
    """A row without intervals, with hits by seed of the final models and of the clients' own models."""

    scores: MethodScores
    final: HitsBySeed
    client_models: HitsBySeed


def _with_intervals(rows: Sequence[_Row], dataset: str) -> list[MethodScores]:
    final = compared([Row(one.scores.label, one.scores.final, one.final) for one in rows], dataset)
    own = compared([Row(one.scores.label, one.scores.client_models, one.client_models) for one in rows], dataset)
    return [
        replace(
            row.scores,
            intervals=of_final.intervals,
            client_model_intervals=of_own.intervals,
            leads=of_final.leads,
            client_models_lead=of_own.leads,
            replicates=of_final.replicates,
        )
        for row, of_final, of_own in zip(rows, final, own, strict=True)
    ]


def _differences(method: MethodScores, best: MethodScores) -> dict[str, Difference]:
    found = {}
    for key, values in method.final.items():
        interval = difference_interval(method.replicates, best.replicates, key)
        if (difference := paired_difference(values, best.final.get(key, {}), interval)) is not None:
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
        experiment.local.learning_rate if experiment.trains else None,
        experiment.rounds if experiment.trains else None,
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
