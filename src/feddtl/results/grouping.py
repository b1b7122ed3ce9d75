"""Runs in groups: those of one setting, and within it those that differ only in the seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from feddtl.config import Experiment
from feddtl.methods.catalog import METHODS
from feddtl.records import Headline
from feddtl.results.labels import distinct_labels
from feddtl.results.run import RunResult
from feddtl.results.settings import Setting, by_setting, setting_titles, settings_of_the_method
from feddtl.units import counted, printable


@dataclass(frozen=True)
class MethodRuns:
    """Runs that differ only in the seed.

    Attributes:
        label: The method's title, with the settings in which it differs from others of the same title.
        style: Position in the colours and markers.
        runs: One for each seed, in order; of several with the same seed, a finished one.
    """

    label: str
    style: int
    runs: tuple[RunResult, ...]

    @property
    def counted(self) -> tuple[RunResult, ...]:
        """The runs that means are taken over: those that are finished, or all if none is."""
        return tuple(run for run in self.runs if run.summary) or self.runs

    @property
    def note(self) -> str:
        """What the means lack; empty when all runs are finished."""
        finished = sum(run.summary is not None for run in self.runs)
        if finished == len(self.runs):
            return ""
        if finished:
            return f"{finished} of {len(self.runs)} runs finished"
        rounds = sorted({run.last_scored.round if run.last_scored else 0 for run in self.runs})
        return f"unfinished, after round {' and '.join(map(str, rounds))} of {self.runs[0].experiment.rounds}"


@dataclass(frozen=True)
class SettingRuns:
    """Runs of one setting, see `feddtl.results.settings`.

    Attributes:
        setting: What the runs have in common.
        title: The same in a few words, different for each setting.
        runs: All runs.
        methods: The runs by method.
    """

    setting: Setting
    title: str
    runs: tuple[RunResult, ...]
    methods: tuple[MethodRuns, ...]

    @property
    def first(self) -> RunResult:
        """The run of the lowest seed, to show what all have in common."""
        return min(self.runs, key=lambda run: run.seed)

    @property
    def scored(self) -> str:
        """What is scored, in words."""
        return self.setting.condition.scored

    @property
    def on_held_back(self) -> str:
        """' on held-back training images', for titles; empty where test images are scored."""
        return f" on {self.scored}" if self.setting.condition.held_back else ""

    @property
    def zero_shot(self) -> dict[int, Headline]:
        """Scores before training by seed; all finished runs with one seed have the same."""
        return {run.seed: run.finished.zero_shot for run in _one_per_seed(run for run in self.runs if run.summary)}

    @property
    def with_predictions(self) -> tuple[RunResult, ...]:
        """One run of each seed with predictions."""
        return _one_per_seed(run for run in self.runs if run.predictions)

    @property
    def seeds(self) -> list[int]:
        """Seeds of its runs."""
        return sorted({run.seed for run in self.runs})

    @property
    def has_novel_classes(self) -> bool:
        """Whether some classes are not trained."""
        return bool(self.first.data["novel_classes"])


GroupMethods = Callable[[Sequence[RunResult]], tuple[MethodRuns, ...]]


def by_method(runs: Iterable[RunResult]) -> tuple[MethodRuns, ...]:
    """The trained methods among the runs of one setting, in the order of `METHODS`."""
    order = list(METHODS)
    trained = [run for run in runs if run.experiment.trains]
    trained.sort(key=lambda run: (order.index(run.experiment.method), run.experiment.stages == "sft"))
    groups = _grouped(trained, lambda run: repr(_settings_of_a_row(run.experiment)))
    own_rounds = len({run.experiment.rounds for run in trained}) > 1
    return tuple(
        replace(group, label=printable(_with_rounds(group) if own_rounds else group.label)) for group in groups
    )


def _with_rounds(group: MethodRuns) -> str:
    """The label with the rounds of the method, unless they already distinguish it from another row."""
    rounds = group.runs[0].experiment.rounds
    return group.label if f"rounds {rounds}" in group.label else f"{group.label}, {counted(rounds, 'round')}"


def by_experiment(runs: Iterable[RunResult]) -> tuple[MethodRuns, ...]:
    """The experiments of a comparison among the runs of one setting, in the order of their first run."""
    return _grouped(runs, lambda run: run.name)


def settings_of(runs: Iterable[RunResult], methods: GroupMethods = by_method) -> list[SettingRuns]:
    """Runs by setting, in the order of their first run; zero-shot alone belongs to several, see `by_setting`."""
    groups = by_setting(runs)
    titles = setting_titles(list(groups))
    return [SettingRuns(setting, titles[setting], tuple(group), methods(group)) for setting, group in groups.items()]


def common_rounds(runs: Sequence[RunResult], key: str, table: str = "headline") -> dict[int, list[float]]:
    """A measure of the runs of a method by round: the rounds that all runs with this measure have.

    Args:
        runs: Of one method.
        key: The measure.
        table: The table of the record that contains it: 'headline' or 'train'.
    """
    by_run = []
    for run in runs:
        found = {record.round: getattr(record, table).get(key) for record in run.records}
        by_run.append({n: value for n, value in found.items() if value is not None and not math.isnan(value)})
    known = [values for values in by_run if values]
    shared = set(known[0]).intersection(*known[1:]) if known else set()
    return {number: [values[number] for values in known] for number in sorted(shared)}


def _grouped(runs: Iterable[RunResult], key: Callable[[RunResult], str]) -> tuple[MethodRuns, ...]:
    """Runs with the same key together.

    The name of an experiment, which differs between data sets, is part of a label only if no setting of the method
    distinguishes it.
    """
    groups: dict[str, list[RunResult]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    experiments = [group[0].experiment for group in groups.values()]
    labels = distinct_labels([one.title for one in experiments], list(map(_settings_of_a_row, experiments)))
    return tuple(
        MethodRuns(label if labels.count(label) == 1 else f"{label} ({group[0].name})", style, _one_per_seed(group))
        for style, (label, group) in enumerate(zip(labels, groups.values(), strict=True))
    )


def _one_per_seed(runs: Iterable[RunResult]) -> tuple[RunResult, ...]:
    by_seed: dict[int, RunResult] = {}
    for run in sorted(runs, key=lambda run: run.summary is None):
        by_seed.setdefault(run.seed, run)
    return tuple(by_seed[seed] for seed in sorted(by_seed))


def _settings_of_a_row(experiment: Experiment) -> dict[str, Any]:
    """Settings that may distinguish two rows; rounds are one of them where the setting has no rounds."""
    return {**settings_of_the_method(experiment), "rounds": experiment.rounds if experiment.trains else 0}
