"""What `compare` tries in order to choose settings of each experiment: which settings, which values, in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product
from typing import Any

from feddtl.comparison.choices import LOCAL_RATE, is_number
from feddtl.comparison.effect import has_effect
from feddtl.comparison.search import SEARCHES, Point, Search
from feddtl.config import Experiment
from feddtl.errors import ConfigError
from feddtl.experiment_file import settings_by_key, with_settings
from feddtl.units import listed

# Half decades: Adam's usual rates are in the lower half, those of SGD in the upper one.
DEFAULT_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
MOST_CHECKED = 1000  # points before the first run; beyond them, a bad one stops the search when it is tried
RATES = (LOCAL_RATE, "server.learning_rate")
# Keys and prefixes of keys that make two runs incomparable, or that have no part in training.
NOT_CHOSEN = (
    *("method", "model", "seed", "rounds", "participation", "init_from"),
    *("data.", "system.", "attack.", "deployment.", "evaluation.", "compute."),
)


@dataclass(frozen=True)
class Tuning:
    """What `compare` tries to choose settings of every experiment, on held-back training images.

    Attributes:
        rates: The values of every rate that a method trains with: two or more, each once.
        seeds: Each point runs with each of them; empty: the first seed of the comparison.
        grid: Other settings to choose, by dotted key, with two or more values each; empty: the rates. A setting is
            chosen for the methods on which it has an effect.
        search: Which combinations of the values are tried, see `feddtl.comparison.search.progress`.

    Raises:
        ConfigError: A grid is too small, a value is named twice or is not allowed, or a setting cannot be chosen.
    """

    rates: tuple[float, ...] = DEFAULT_RATES
    seeds: tuple[int, ...] = ()
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    search: Search = "coordinates"

    def __post_init__(self) -> None:
        _require_values("tune_rates", self.rates)
        for rate in () if self.grid else self.rates:
            with_settings(Experiment(), {LOCAL_RATE: rate}, f"tune_rates = {self.rates!r}")
        for key, values in self.grid.items():
            if key.startswith(NOT_CHOSEN):
                raise ConfigError(
                    f"tune_grid has {key}, which belongs to what is compared or to the machine, and not to a method.",
                    "Choose settings of the training, such as local.learning_rate, local.epochs or lora.rank.",
                )
            _require_values(f"tune_grid {key}", values)
        if self.search not in SEARCHES:
            raise ConfigError(f"tune_search = {self.search!r} is unknown.", f"Allowed: {listed(SEARCHES)}.")
        if self.search == "together" and len({len(values) for values in self.grids.values()}) > 1:
            raise ConfigError(
                "tune_search = 'together' takes the first values of all settings, then the second ones, and so on, and "
                "the settings of tune_grid have different numbers of values.",
                "Name as many values for each, or use tune_search = 'product'.",
            )

    @property
    def grids(self) -> dict[str, tuple[Any, ...]]:
        """The values of each setting; numbers ascend."""
        named = self.grid or dict.fromkeys(RATES, self.rates)
        return {key: _in_order(values) for key, values in named.items()}

    def grids_of(self, experiment: Experiment) -> dict[str, tuple[Any, ...]]:
        """The settings that are chosen for an experiment: those that have an effect on it."""
        return {key: values for key, values in self.grids.items() if has_effect(experiment, key)}

    def start_of(self, experiment: Experiment) -> Point:
        """Where 'coordinates' begins: the values of the experiment, or of the middle of a grid that lacks them."""
        own = settings_by_key(experiment)
        return tuple(
            own[key] if own[key] in values else values[(len(values) - 1) // 2]
            for key, values in self.grids_of(experiment).items()
        )


def trial_of(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """The experiment with these values, scored once, at its end, on held-back training images.

    Raises:
        ConfigError: A value is not allowed.
    """
    evaluation = replace(experiment.evaluation, images="held-back", every=experiment.rounds, client_models="never")
    return replace(with_settings(experiment, values, "tune_grid"), evaluation=evaluation)


def require_tunable(experiments: Mapping[str, Experiment], tune: Tuning) -> None:
    """Raise ConfigError for experiments of which nothing can be chosen, or that differ in what is chosen alone."""
    found = {name: tune.grids_of(experiment) for name, experiment in experiments.items()}
    if not any(experiment.trains for experiment in experiments.values()):
        raise ConfigError("No experiment trains, so there is no learning rate to choose.", "Omit --tune.")
    used = {key for grids in found.values() for key in grids}
    if idle := [key for key in tune.grid if key not in used]:
        raise ConfigError(f"{idle[0]} has no effect on any of these experiments.", "Remove it from --tune-grid.")
    seen: dict[Experiment, str] = {}
    for name, grids in found.items():
        experiment = experiments[name]
        if not grids:
            continue
        if experiment.evaluation.images != "test":
            raise ConfigError(
                f"{name} has evaluation.images = {experiment.evaluation.images!r}, which --tune uses by itself.",
                "Omit it: settings are chosen on held-back training images, and their runs are scored on test images.",
            )
        # Now, because a search may need hours to come to two values that do not go together.
        for point in islice(_points(grids, tune.search), MOST_CHECKED) if tune.grid else ():
            with_settings(experiment, dict(zip(grids, point, strict=True)), f"{name} with tune_grid")
        same = with_settings(experiment, {key: values[0] for key, values in grids.items()})
        twin = seen.setdefault(replace(same, seed=0), name)
        if twin != name:
            raise ConfigError(
                f"{twin} and {name} differ only in {listed(list(grids))}, which --tune chooses.",
                "Omit --tune, or remove these settings from the file and name their values with --tune-rates or "
                "--tune-grid.",
            )


def _points(grids: Mapping[str, Sequence[Any]], search: Search) -> Iterable[Point]:
    """All points that a search may come to."""
    return zip(*grids.values(), strict=True) if search == "together" else product(*grids.values())


def _require_values(what: str, values: Sequence[Any]) -> None:
    # Compared one by one: a list, which no setting takes, has no hash.
    if len(values) < 2 or any(value in values[:index] for index, value in enumerate(values)):
        raise ConfigError(f"{what} = {tuple(values)!r} is out of range.", "Allowed: two or more, each once.")


def _in_order(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(sorted(values)) if all(map(is_number, values)) else tuple(values)
