"""Runs put together: one setting on one page part, one method on one line, one seed one value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feddtl.algorithms import METHODS
from feddtl.config import METHOD_TITLES
from feddtl.dotted import flatten
from feddtl.experiment_file import experiment_to_dict
from feddtl.labels import told_apart
from feddtl.report.collect import Run, printable
from feddtl.units import counted

# What a method does with the images it is given, and where it is computed, is not part of the setting.
OF_THE_METHOD = ("data.views",)
OF_THE_MACHINE = "compute."


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
        rounds = sorted({run.last_scored["round"] if run.last_scored else 0 for run in self.runs})
        return f"unfinished, after round {' and '.join(map(str, rounds))} of {self.runs[0].experiment.rounds}"


@dataclass(frozen=True)
class Setting:
    """Runs on the same images, divided in the same way, with the same model.

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
    def zero_shot(self) -> list[Mapping[str, Any]]:
        """Scores before training, one for each seed that a finished run has."""
        by_seed = {run.experiment.seed: run.summary["zero_shot"] for run in reversed(self.runs) if run.summary}
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


def settings_of(runs: Sequence[Run]) -> list[Setting]:
    """Runs by setting, in order of their first run."""
    groups = _grouped(runs, _is_of_setting)
    titles = _told_apart([_setting_title(group[0]) for group in groups], groups, _is_of_setting)
    return [Setting(title, tuple(group), _methods(group)) for title, group in zip(titles, groups, strict=True)]


def _methods(runs: Sequence[Run]) -> tuple[MethodRuns, ...]:
    trained = [run for run in runs if METHODS[run.experiment.method].trains]
    order = list(METHOD_TITLES)
    trained.sort(key=lambda run: (order.index(run.experiment.method), run.experiment.schedule.stages == "sft"))
    groups = _grouped(trained, _is_of_method)
    labels = _told_apart([group[0].experiment.title for group in groups], groups, _is_of_method)
    return tuple(
        MethodRuns(label, style, _one_per_seed(group))
        for style, (label, group) in enumerate(zip(labels, groups, strict=True))
    )


def _one_per_seed(runs: Iterable[Run]) -> tuple[Run, ...]:
    by_seed: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: run.summary is None):
        by_seed.setdefault(run.experiment.seed, run)
    return tuple(by_seed[seed] for seed in sorted(by_seed))


def _grouped(runs: Iterable[Run], counts: Callable[[str], bool]) -> list[list[Run]]:
    """Runs that agree in all settings that count, in order of the first of them."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(repr(_values(run, counts)), []).append(run)
    return list(groups.values())


def _values(run: Run, counts: Callable[[str], bool]) -> dict[str, Any]:
    return {key: value for key, value in flatten(experiment_to_dict(run.experiment)).items() if counts(key)}


def _is_of_setting(key: str) -> bool:
    return key == "model" or (key.startswith("data.") and key not in OF_THE_METHOD)


def _is_of_method(key: str) -> bool:
    return key != "seed" and not _is_of_setting(key) and not key.startswith(OF_THE_MACHINE)


def _told_apart(titles: Sequence[str], groups: Sequence[Sequence[Run]], counts: Callable[[str], bool]) -> list[str]:
    """See `told_apart`; as a page can hold it."""
    return list(map(printable, told_apart(titles, [_values(group[0], counts) for group in groups])))


def _setting_title(run: Run) -> str:
    config = run.experiment.data
    images = f"{counted(config.shots, 'image')} per class" if config.regime == "few-shot" else "all images"
    dirichlet = f" (α = {config.alpha:g})" if config.is_dirichlet else ""
    return (
        f"{run.data['dataset']}, {images}, {config.partition}{dirichlet}, {counted(config.clients, 'client')}, "
        f"{run.experiment.model}"
    )
