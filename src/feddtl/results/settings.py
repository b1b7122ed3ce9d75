"""What experiments have in common apart from the method: their setting. Methods are compared within one setting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from feddtl.config import DataConfig, Experiment
from feddtl.config.running import SCORED_IMAGES
from feddtl.experiment_file import settings_by_key
from feddtl.results.labels import path_names, shown_values
from feddtl.results.run import RunResult
from feddtl.units import counted, shortened

# Keys of `data` that select the images; the others distribute them to clients.
OF_THE_SOURCE = ("source", "root", "domains", "novel", "prompt", "image_column", "label_column", "domain_column")
# Those of them that every title names unless they have their default: they decide what is recognised.
ALWAYS_NAMED = ("domains", "novel")
CLASS_CHOICE = "class_choice"
MOST_LETTERS = 60  # of a choice of classes in a title
# Keys and prefixes of keys that belong to the setting or describe the machine.
NOT_OF_THE_METHOD = (
    *("seed", "model", "rounds", "participation", "data.", "compute.", "deployment."),
    *("evaluation.images", "evaluation.held_back_share"),
)
# Positions in `Condition.parts` that stand for a condition where nothing else tells it apart.
REGIME_AND_PARTITION = (0, 1)


@dataclass(frozen=True)
class Condition:
    """A setting without its data set; accuracies are averaged over the data sets of one condition.

    `shots` is None in the full regime; `alpha` is None and `min_images` 0 for a partition that is not Dirichlet;
    `rounds` is 0 if nothing is trained and None if each method has its own, and `held_back` is the share of the
    training images that is scored instead of the test images, or 0.
    """

    regime: str
    shots: int | None
    partition: str
    alpha: float | None
    min_images: int
    clients: int
    views: int
    test_images: int
    participation: float
    rounds: int | None
    model: str
    held_back: float = 0.0

    @property
    def scored(self) -> str:
        """What is scored, in words."""
        return SCORED_IMAGES["held-back" if self.held_back else "test"]

    def parts(self, model: str) -> tuple[str, ...]:
        """A text, or '', for each property that may differ; `model` is the shown name, see `path_names`."""
        return (
            self.regime if self.shots in (None, DataConfig.shots) else f"{self.regime} ({self.shots} per class)",
            self.partition if self.alpha is None else f"{self.partition} (α = {self.alpha:g})",
            f"at least {counted(self.min_images, 'image')}" if self.min_images else "",
            counted(self.clients, "client"),
            f"{self.views} views" if self.views > 1 else "",
            f"{counted(self.test_images, self.scored.removesuffix('s'))} per class" if self.test_images else "",
            f"participation {self.participation:g}" if self.participation < 1 else "",
            counted(self.rounds, "round") if self.rounds else "",
            model,
            f"scored on {100 * self.held_back:g}% {self.scored}" if self.held_back else "",
        )


@dataclass(frozen=True)
class Setting:
    """What the rows of one table, or the curves of one figure, have in common.

    Attributes:
        dataset: Name of the data set, as summaries have it.
        source: Keys and values of `OF_THE_SOURCE`, and the choice of classes.
        condition: The rest.
    """

    dataset: str
    source: tuple[tuple[str, str], ...]
    condition: Condition


def setting_of(run: RunResult) -> Setting:
    """The setting of a run; that of zero-shot has no rounds."""
    experiment, data = run.experiment, run.experiment.data
    condition = Condition(
        regime=data.regime,
        shots=data.shots if data.regime == "few-shot" else None,
        partition=data.partition,
        alpha=data.alpha if data.is_dirichlet else None,
        min_images=data.min_images if data.is_dirichlet else 0,
        clients=data.client_count,
        views=data.views,
        test_images=data.test_images_per_class,
        participation=experiment.participation,
        rounds=experiment.rounds if experiment.trains else 0,
        model=experiment.model_name,
        held_back=experiment.evaluation.held_back,
    )
    source = tuple((key, getattr(data, key)) for key in OF_THE_SOURCE)
    return Setting(run.dataset, (*source, (CLASS_CHOICE, data.class_choice)), condition)


def by_setting(runs: Iterable[RunResult]) -> dict[Setting, list[RunResult]]:
    """Runs of each setting, settings in the order of their first run.

    Rounds belong to the setting if the same methods are run with each number of rounds, as in a sweep; otherwise to
    the method, as where each is run with the budget of its paper. Zero-shot has no rounds, so it belongs to every
    setting that differs only in the rounds.
    """
    groups: dict[Setting, list[RunResult]] = {}
    found = list(runs)
    own_rounds = _with_rounds_by_method(found)
    for run in sorted(found, key=lambda run: not run.experiment.trains):
        own = setting_of(run)
        if _without_rounds(own) in own_rounds:
            settings = [with_rounds(own, None)]
        elif run.experiment.trains:
            settings = [own]
        else:
            settings = [one for one in groups if _without_rounds(one) == own] or [own]
        for setting in settings:
            groups.setdefault(setting, []).append(run)
    return groups


def with_rounds(setting: Setting, rounds: int | None) -> Setting:
    """The same setting with another number of rounds."""
    return replace(setting, condition=replace(setting.condition, rounds=rounds))


def _without_rounds(setting: Setting) -> Setting:
    return with_rounds(setting, 0)


def _with_rounds_by_method(runs: Iterable[RunResult]) -> set[Setting]:
    """Settings, without rounds, in which the numbers of rounds were not run with the same methods."""
    methods: dict[Setting, dict[int, set[str]]] = {}
    for run in runs:
        if run.experiment.trains:
            by_rounds = methods.setdefault(_without_rounds(setting_of(run)), {})
            by_rounds.setdefault(run.experiment.rounds, set()).add(repr(settings_of_the_method(run.experiment)))
    return {
        setting
        for setting, found in methods.items()
        if any(one != next(iter(found.values())) for one in found.values())
    }


def setting_titles(settings: Sequence[Setting]) -> dict[Setting, str]:
    """A title for each; it names other domains and novel classes than the default ones, and what of the data source
    differs between settings with the same title otherwise."""
    return {setting: ", ".join(filter(None, texts)) for setting, texts in _texts(settings).items()}


def column_titles(columns: Sequence[Sequence[Setting]]) -> tuple[str, list[str]]:
    """What all columns of a table have in common, and a short title for each with the rest; never an empty one.

    Args:
        columns: For each column the settings whose mean it shows: one condition, and as many data sets.
    """
    texts = _texts([setting for column in columns for setting in column])
    one_each = all(len(column) == 1 for column in columns)
    rows = [[_shared(part) for part in zip(*map(texts.__getitem__, column), strict=True)] for column in columns]
    if not one_each:  # the data sets of a mean are named below the table
        rows = [["", *row[1:]] for row in rows]
    parts = list(zip(*rows, strict=True))
    differing = [len(set(part)) > 1 for part in parts]
    titles = [_titles_of(row, differing) for row in rows]
    if not all(titles):
        for index in REGIME_AND_PARTITION:
            differing[1 + index] = True
        titles = [_titles_of(row, differing) for row in rows]
    common = [part[0] for part, differs in zip(parts, differing, strict=True) if not differs and part[0]]
    return ", ".join(common), titles


def _titles_of(texts: Sequence[str], shown: Sequence[bool]) -> str:
    return ", ".join(text for text, show in zip(texts, shown, strict=True) if show and text)


def _shared(texts: Sequence[str]) -> str:
    """The text that all have, else ''."""
    return texts[0] if len(set(texts)) == 1 else ""


def _texts(settings: Sequence[Setting]) -> dict[Setting, tuple[str, ...]]:
    """For each the data set, the parts of its condition, and a text, or '', for each key of the data source."""
    models = path_names(setting.condition.model for setting in settings)
    parts = {one: (one.dataset, *one.condition.parts(models[one.condition.model])) for one in settings}
    found = {}
    for setting, texts in parts.items():
        rivals = [dict(other.source) for other in settings if parts[other] == texts]
        found[setting] = (*texts, *(_text_of(key, value, rivals) for key, value in setting.source))
    return found


def _text_of(key: str, value: str, rivals: Sequence[Mapping[str, str]]) -> str:
    values = [rival[key] for rival in rivals]
    if key == CLASS_CHOICE:
        return shortened(value or "default classes", MOST_LETTERS) if len(set(values)) > 1 else ""
    named = key in ALWAYS_NAMED and value != getattr(DataConfig, key)
    if not named and all(other == value for other in values):
        return ""
    return f"{key} {shown_values(f'data.{key}', values)[value] or 'default'}"


def settings_of_the_method(experiment: Experiment) -> dict[str, Any]:
    """By dotted key, what neither the setting nor the machine decides."""
    settings = settings_by_key(experiment)
    return {key: value for key, value in settings.items() if not key.startswith(NOT_OF_THE_METHOD)}
