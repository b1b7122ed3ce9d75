"""Runs put together: one setting on one page part, one method on one line, one seed one value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from feddtl.config import METHOD_TITLES
from feddtl.labels import told_apart
from feddtl.records import Headline
from feddtl.report.collect import Run, printable
from feddtl.settings import by_setting, setting_titles, settings_of_the_method


@dataclass(frozen=True)
class MethodRuns:
    """Runs that differ in the seed alone.

    Attributes:
        label: The method's title, and the settings that tell it from others of the same title.
        style: Position in the colours and markers.
        runs: One for each seed, in order; of several with one seed a finished one, since they are the same.
    """

    label: str
    style: int
    runs: tuple[Run, ...]

    @property
    def counted(self) -> tuple[Run, ...]:
        """The finished runs, or all where none is finished: what means are taken over."""
        return tuple(run for run in self.runs if run.summary) or self.runs

    @property
    def note(self) -> str:
        """What is missing, for a reader of the means; empty when all runs are finished."""
        finished = sum(run.summary is not None for run in self.runs)
        if finished == len(self.runs):
            return ""
        if finished:
            return f"{finished} of {len(self.runs)} runs finished"
        rounds = sorted({run.last_scored.round if run.last_scored else 0 for run in self.runs})
        return f"unfinished, after round {' and '.join(map(str, rounds))} of {self.runs[0].experiment.rounds}"


@dataclass(frozen=True)
class SettingRuns:
    """Runs of one setting, see `feddtl.settings`.

    Attributes:
        title: What they have in common, in a few words.
        runs: All of them.
        methods: The trained ones, in the order of `METHOD_TITLES`.
    """

    title: str
    runs: tuple[Run, ...]
    methods: tuple[MethodRuns, ...]

    @property
    def first(self) -> Run:
        """The run that stands for what all have in common, of the lowest seed."""
        return min(self.runs, key=lambda run: run.experiment.seed)

    @property
    def zero_shot(self) -> list[Headline]:
        """Scores before training, one for each seed that a finished run has."""
        by_seed = {run.experiment.seed: run.summary.zero_shot for run in reversed(self.runs) if run.summary}
        return [by_seed[seed] for seed in sorted(by_seed)]

    @property
    def with_predictions(self) -> list[Run]:
        """The first run of each seed that kept predictions."""
        by_seed = {run.experiment.seed: run for run in reversed(self.runs) if run.predictions}
        return [by_seed[seed] for seed in sorted(by_seed)]

    @property
    def seeds(self) -> list[int]:
        """Seeds of its runs."""
        return sorted({run.experiment.seed for run in self.runs})

    @property
    def has_novel_classes(self) -> bool:
        """Whether some classes are trained by nobody."""
        return bool(self.first.data["novel_classes"])


def settings_of(runs: Sequence[Run]) -> list[SettingRuns]:
    """Runs by setting, in order of their first run; zero-shot alone belongs to several, see `by_setting`."""
    groups = by_setting(runs)
    titles = setting_titles(list(groups))
    return [SettingRuns(printable(titles[setting]), tuple(group), _methods(group)) for setting, group in groups.items()]


def _methods(runs: Sequence[Run]) -> tuple[MethodRuns, ...]:
    order = list(METHOD_TITLES)
    trained = [run for run in runs if run.experiment.trains]
    trained.sort(key=lambda run: (order.index(run.experiment.method), run.experiment.schedule.stages == "sft"))
    groups: dict[str, list[Run]] = {}
    for run in trained:
        groups.setdefault(repr(settings_of_the_method(run.experiment)), []).append(run)
    experiments = [group[0].experiment for group in groups.values()]
    labels = told_apart([one.title for one in experiments], list(map(settings_of_the_method, experiments)))
    return tuple(
        MethodRuns(printable(label), style, _one_per_seed(group))
        for style, (label, group) in enumerate(zip(labels, groups.values(), strict=True))
    )


def _one_per_seed(runs: Iterable[Run]) -> tuple[Run, ...]:
    by_seed: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: run.summary is None):
        by_seed.setdefault(run.experiment.seed, run)
    return tuple(by_seed[seed] for seed in sorted(by_seed))
