"""Scores and costs of the methods of a setting, and their means over the data sets of a condition."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from feddtl.methods.catalog import METHODS
from feddtl.records import SCORES, Headline
from feddtl.results.grouping import MethodRuns, SettingRuns, by_experiment, settings_of
from feddtl.results.run import RunResult
from feddtl.results.settings import Condition, Setting, condition_titles
from feddtl.results.statistics import Difference, Spread, paired_difference, spread_of

COSTS = ("trainable_parameters", "bytes_up", "bytes_down", "seconds")
ZERO_SHOT = METHODS["zero-shot"].title
BySeed = Mapping[int, float]


@dataclass(frozen=True)
class MethodScores:
    """One method in one setting.

    Attributes:
        label: Title of the method.
        final: Accuracy in % after the last round by score and seed, without scores that no run has.
        client_models: The same for the clients' own models, mean over clients.
        costs: By `COSTS`, over seeds, without costs that no run has.
        difference: Harmonic mean minus that of the setting's best method, over shared seeds; None for the best.
        learning_rate: On the clients; None for a method that does not train.
    """

    label: str
    final: Mapping[str, BySeed]
    client_models: Mapping[str, BySeed]
    costs: Mapping[str, Spread]
    difference: Difference | None = None
    learning_rate: float | None = None


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
    """

    condition: Condition
    title: str
    datasets: tuple[str, ...]
    methods: Mapping[str, Mapping[str, BySeed]]


def setting_scores(runs: Sequence[RunResult]) -> tuple[SettingScores, ...]:
    """Scores of every setting among finished runs."""
    return tuple(map(_setting_scores, settings_of(runs, by_experiment)))


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
            datasets = tuple(member.setting.dataset for member in part)
            means = {method.label: _mean_over_data(method.label, part) for method in part[0].methods}
            found.append(ConditionScores(condition, title, datasets, {k: v for k, v in means.items() if v}))
    return tuple(found)


def _setting_scores(group: SettingRuns) -> SettingScores:
    methods = list(map(_method_scores, group.methods))
    if all(run.experiment.trains for run in group.runs):
        methods.insert(0, MethodScores(ZERO_SHOT, _by_score(group.zero_shot), {}, {}))
    methods.sort(key=lambda method: not method.label.startswith(ZERO_SHOT))
    measured = [method for method in methods if method.final.get("harmonic_mean")]
    best = max(measured, key=lambda method: statistics.mean(method.final["harmonic_mean"].values()), default=None)
    for index, method in enumerate(methods):
        if best and method is not best:
            difference = paired_difference(method.final.get("harmonic_mean", {}), best.final["harmonic_mean"])
            methods[index] = replace(method, difference=difference)
    return SettingScores(group.setting, group.title, tuple(methods), best.label if best else "")


def _method_scores(method: MethodRuns) -> MethodScores:
    experiment = method.runs[0].experiment
    spreads = {key: spread_of(_costs(method.runs, key)) for key in COSTS}
    return MethodScores(
        method.label,
        _by_score({run.seed: run.final for run in method.runs}),
        _by_score({run.seed: run.client_models for run in method.runs}),
        {key: spread for key, spread in spreads.items() if spread.n},
        learning_rate=experiment.local.learning_rate if experiment.trains else None,
    )


def _costs(runs: Iterable[RunResult], key: str) -> list[float]:
    """A cost of each run that has it; of parameters the sum over all places where they are trained."""
    found = [cost for run in runs if (cost := getattr(run.finished, key))]
    return [sum(cost.values()) if isinstance(cost, Mapping) else cost for cost in found]


def _by_score(by_seed: Mapping[int, Headline]) -> dict[str, BySeed]:
    """Scores by score and seed, without those that were not measured."""
    found = {
        key: {seed: value for seed, scores in by_seed.items() if (value := scores.get(key)) is not None}
        for key in SCORES
    }
    return {key: values for key, values in found.items() if values}


def _mean_over_data(label: str, settings: Sequence[SettingScores]) -> dict[str, BySeed]:
    """By score and seed; empty if a data set lacks the method, because a mean over fewer is not comparable."""
    members = [method for setting in settings for method in setting.methods if method.label == label]
    if len(members) < len(settings):
        return {}
    means: dict[str, BySeed] = {}
    for key in SCORES:
        values = [method.final.get(key, {}) for method in members]
        shared = [seed for seed in values[0] if all(seed in one for one in values)]
        if shared:
            means[key] = {seed: statistics.mean(one[seed] for one in values) for seed in shared}
    return means
