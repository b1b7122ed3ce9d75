"""From outcomes to numbers: methods within a setting, and their means over data sets."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feddtl.comparison.outcomes import Outcome
from feddtl.comparison.statistics import Difference, paired_difference
from feddtl.config import METHOD_TITLES
from feddtl.labels import told_apart
from feddtl.settings import Condition, Setting, by_setting, condition_titles, setting_titles, settings_of_the_method
from feddtl.spread import Spread, spread_of

SCORES = ("local", "base", "novel", "harmonic_mean")
COSTS = ("trainable_parameters", "bytes_up", "bytes_down", "seconds")
ZERO_SHOT = METHOD_TITLES["zero-shot"]
BySeed = Mapping[int, float]


@dataclass(frozen=True)
class MethodResults:
    """A row: one method in one setting.

    Attributes:
        label: Title of the method.
        final: Accuracy in % after the last round by score and seed; a score that no run has is left out.
        client_models: The same for the clients' own models, mean over clients.
        costs: Means over seeds; a cost that no run has is left out.
        difference: Harmonic mean minus that of the setting's best method, over shared seeds; None for the best.
    """

    label: str
    final: Mapping[str, BySeed]
    client_models: Mapping[str, BySeed]
    costs: Mapping[str, Spread]
    difference: Difference | None = None


@dataclass(frozen=True)
class SettingResults:
    """A table: every method of a setting.

    Attributes:
        setting: What the rows have in common.
        title: Its name, unlike that of any other setting.
        rows: Zero-shot first, then methods in the order of their experiments.
        best: Label of the highest harmonic mean; '' where none was measured.
    """

    setting: Setting
    title: str
    rows: tuple[MethodResults, ...]
    best: str


@dataclass(frozen=True)
class ConditionResults:
    """A column group of the summary: the mean over the data sets of a condition.

    Attributes:
        condition: What the data sets' settings have in common.
        title: Its short name.
        datasets: Names of the data sets.
        rows: By label, score and seed the mean over data sets, formed per seed; only methods and seeds that every
            data set has. The harmonic mean is that of each data set, then averaged.
    """

    condition: Condition
    title: str
    datasets: tuple[str, ...]
    rows: Mapping[str, Mapping[str, BySeed]]


def setting_results(outcomes: Sequence[Outcome]) -> tuple[SettingResults, ...]:
    """Results of every setting among the outcomes."""
    groups = by_setting(outcomes)
    titles = setting_titles(list(groups))
    return tuple(_results(setting, titles[setting], members) for setting, members in groups.items())


def condition_results(settings: Sequence[SettingResults]) -> tuple[ConditionResults, ...]:
    """Means over data sets, a group for each condition.

    Settings of one data set, which differ in prompt or domains, are no sample of data sets: each is its own group.
    """
    groups: dict[Condition, list[SettingResults]] = {}
    for results in settings:
        groups.setdefault(results.setting.condition, []).append(results)
    titles = condition_titles(list(groups))
    found: list[ConditionResults] = []
    for condition, members in groups.items():
        if len({member.setting.dataset for member in members}) == len(members):
            found.append(_condition_results(condition, titles[condition], members))
        else:
            found += [_condition_results(condition, member.title, [member]) for member in members]
    return tuple(found)


def _condition_results(condition: Condition, title: str, members: Sequence[SettingResults]) -> ConditionResults:
    return ConditionResults(
        condition,
        title,
        tuple(member.setting.dataset for member in members),
        {row.label: found for row in members[0].rows if (found := _mean_over_data(row.label, members))},
    )


def _results(setting: Setting, title: str, outcomes: Sequence[Outcome]) -> SettingResults:
    labels = row_labels(outcomes)
    rows = [_row(label, [one for one in outcomes if one.name == name]) for name, label in labels.items()]
    if all(outcome.experiment.trains for outcome in outcomes):
        rows.insert(0, _zero_shot_row(outcomes))
    rows.sort(key=lambda row: not row.label.startswith(ZERO_SHOT))
    best = max((row for row in rows if row.final.get("harmonic_mean")), key=_harmonic_mean, default=None)
    return SettingResults(
        setting, title, tuple(_with_difference(row, best) for row in rows), "" if best is None else best.label
    )


def row_labels(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Title of the method for each experiment's name; those of one title are told apart by the settings that differ.

    The name, which differs between data sets, is added only where no such setting does.

    Args:
        outcomes: Of one setting.
    """
    experiments = {outcome.name: outcome.experiment for outcome in outcomes}
    titles = [found.title for found in experiments.values()]
    labels = told_apart(titles, [settings_of_the_method(found) for found in experiments.values()])
    return {
        name: label if labels.count(label) == 1 else f"{label} ({name})"
        for name, label in zip(experiments, labels, strict=True)
    }


def _row(label: str, outcomes: Sequence[Outcome]) -> MethodResults:
    summaries = {outcome.seed: outcome.summary for outcome in outcomes}
    measured = {key: [cost for one in summaries.values() if (cost := getattr(one, key))] for key in COSTS}
    costs = {key: spread_of(map(cost_of, values)) for key, values in measured.items()}
    return MethodResults(
        label,
        _scores({seed: summary.final for seed, summary in summaries.items()}),
        _scores({seed: summary.final_client_models or {} for seed, summary in summaries.items()}),
        {key: spread for key, spread in costs.items() if spread.n},
    )


def cost_of(value: float | Mapping[str, float]) -> float:
    """A cost as one number: trained parameters count wherever they are trained."""
    return sum(value.values()) if isinstance(value, Mapping) else value


def _zero_shot_row(outcomes: Sequence[Outcome]) -> MethodResults:
    """What the runs scored before training; of the runs with one seed, which agree, the first is taken."""
    by_seed: dict[int, Mapping[str, Any]] = {}
    for outcome in outcomes:
        by_seed.setdefault(outcome.seed, outcome.summary.zero_shot)
    return MethodResults(ZERO_SHOT, _scores(by_seed), {}, {})


def _scores(by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, BySeed]:
    """By score and seed, without what was not measured."""
    found = {
        key: {seed: scores[key] for seed, scores in by_seed.items() if scores.get(key) is not None} for key in SCORES
    }
    return {key: values for key, values in found.items() if values}


def _harmonic_mean(row: MethodResults) -> float:
    return statistics.mean(row.final["harmonic_mean"].values())


def _with_difference(row: MethodResults, best: MethodResults | None) -> MethodResults:
    if best is None or row is best:
        return row
    difference = paired_difference(row.final.get("harmonic_mean", {}), best.final["harmonic_mean"])
    return MethodResults(row.label, row.final, row.client_models, row.costs, difference)


def _mean_over_data(label: str, settings: Sequence[SettingResults]) -> dict[str, BySeed]:
    """By score and seed; nothing where a data set lacks the method, for a mean over fewer compares with no other."""
    rows = [row for results in settings for row in results.rows if row.label == label]
    if len(rows) < len(settings):
        return {}
    means: dict[str, BySeed] = {}
    for key in SCORES:
        values = [row.final.get(key, {}) for row in rows]
        shared = [seed for seed in values[0] if all(seed in one for one in values)]
        if shared:
            means[key] = {seed: statistics.mean(one[seed] for one in values) for seed in shared}
    return means
