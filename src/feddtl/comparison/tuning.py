"""The learning rate of each experiment of a comparison: which rates are tried, and which one is chosen."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from feddtl.config import Experiment, LocalConfig
from feddtl.errors import ConfigError
from feddtl.record_fields import checked

if TYPE_CHECKING:
    from feddtl.records import Summary
    from feddtl.results.run import RunResult

# Half decades: Adam's usual rates are in the lower half, those of SGD in the upper one.
DEFAULT_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
Criterion = Literal["base", "local"]


@dataclass(frozen=True)
class Tuning:
    """What `compare` tries to choose `local.learning_rate` of every experiment, on held-back training images.

    Attributes:
        rates: The grid, the same for every experiment: two or more, each once.
        seeds: Each rate runs with each of them; empty: the first seed of the comparison.

    Raises:
        ConfigError: The grid is too small, a rate is named twice, or one is no learning rate.
    """

    rates: tuple[float, ...] = DEFAULT_RATES
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.rates) < 2 or len(set(self.rates)) < len(self.rates):
            raise ConfigError(f"tune_rates = {self.rates!r} is out of range.", "Allowed: two or more, each once.")
        for rate in self.rates:
            try:
                LocalConfig(learning_rate=rate)
            except ConfigError as error:
                raise ConfigError(f"tune_rates = {self.rates!r}: {error.message}", error.hint) from None

    def trials(self, experiment: Experiment) -> dict[float, Experiment]:
        """The experiment at each rate, in ascending order, scored once, at its end, on held-back training images."""
        evaluation = replace(experiment.evaluation, images="held-back", every=experiment.rounds, client_models="never")
        return {rate: replace(with_rate(experiment, rate), evaluation=evaluation) for rate in sorted(self.rates)}


def with_rate(experiment: Experiment, rate: float) -> Experiment:
    """The experiment with another learning rate on the clients; the server's does not change."""
    return replace(experiment, local=replace(experiment.local, learning_rate=rate))


def require_tunable(experiments: Mapping[str, Experiment]) -> None:
    """Raise ConfigError for experiments whose rate cannot be chosen, or was chosen by a grid of their own."""
    trained = {name: experiment for name, experiment in experiments.items() if experiment.trains}
    if not trained:
        raise ConfigError("No experiment trains, so there is no learning rate to choose.", "Omit --tune.")
    for name, experiment in trained.items():
        if experiment.evaluation.images != "test":
            raise ConfigError(
                f"{name} has evaluation.images = {experiment.evaluation.images!r}, which --tune uses by itself.",
                "Omit it: rates are chosen on held-back training images, and their runs are scored on test images.",
            )
    seen: dict[Experiment, str] = {}
    for name, experiment in trained.items():
        twin = seen.setdefault(replace(with_rate(experiment, DEFAULT_RATES[0]), seed=0), name)
        if twin != name:
            raise ConfigError(
                f"{twin} and {name} differ only in local.learning_rate, which --tune chooses.",
                "Omit --tune, or remove local.learning_rate from the file and name the rates with --tune-rates.",
            )


@dataclass(frozen=True)
class RateChoice:
    """The rate of one experiment.

    Attributes:
        name: Name of the experiment.
        title: Title of its method.
        criterion: Which accuracy the choice is made by: 'local' if clients keep a part of their model, else 'base'.
        scores: That accuracy in percent by rate and seed, without runs that diverged.
        diverged: By rate, why a run of it counts as worst.
        error: Why nothing is chosen, from a run that failed for another reason; else ''.
        rate: The chosen rate; None if nothing is chosen, or not yet.
    """

    name: str
    title: str
    criterion: Criterion
    scores: Mapping[float, Mapping[int, float]]
    diverged: Mapping[float, str]
    error: str = ""
    rate: float | None = None

    def mean(self, rate: float) -> float | None:
        """Mean over the seeds; None for a rate that was not tried, or at which a run diverged."""
        scores = {} if rate in self.diverged else self.scores.get(rate, {})
        # Summaries have four decimals; beyond them, a mean differs by rounding alone.
        return round(statistics.mean(scores.values()), 4) if scores else None

    def is_at_end(self, rates: Sequence[float]) -> bool:
        """Whether the chosen rate is the first or the last of the grid."""
        return self.rate in (min(rates), max(rates))

    def to_dict(self, rates: Sequence[float]) -> dict[str, Any]:
        """As in tuning.json; rates are texts there."""
        return {
            "title": self.title,
            "criterion": self.criterion,
            "rate": self.rate,
            "at_end_of_grid": self.is_at_end(rates),
            "mean": {str(rate): self.mean(rate) for rate in sorted(rates)},
            "by_seed": {str(rate): {str(seed): v for seed, v in own.items()} for rate, own in self.scores.items()},
            "diverged": {str(rate): reason for rate, reason in self.diverged.items()},
            "error": self.error,
        }

    @classmethod
    def from_dict(cls, name: str, values: Mapping[str, Any]) -> RateChoice:
        """What `to_dict` gave. Raises KeyError, TypeError, AttributeError or ValueError for anything else."""
        choice: RateChoice = checked(
            cls(
                name,
                values["title"],
                values["criterion"],
                {float(rate): {int(seed): v for seed, v in own.items()} for rate, own in values["by_seed"].items()},
                {float(rate): reason for rate, reason in values["diverged"].items()},
                values["error"],
                values["rate"],
            )
        )
        return choice


@dataclass(frozen=True)
class ChosenRates:
    """The rates of a comparison.

    Attributes:
        rates: The grid, in ascending order.
        seeds: The seeds of the runs that the choices are made by.
        choices: One for each experiment that trains.
        untrained: Names of the others.
    """

    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    choices: tuple[RateChoice, ...]
    untrained: tuple[str, ...] = ()

    @property
    def by_name(self) -> dict[str, RateChoice]:
        """The choices by experiment."""
        return {choice.name: choice for choice in self.choices}

    def to_dict(self) -> dict[str, Any]:
        """The content of tuning.json."""
        return {
            "images": "held-back",
            "rates": list(self.rates),
            "seeds": list(self.seeds),
            "experiments": {choice.name: choice.to_dict(self.rates) for choice in self.choices},
            "untrained": list(self.untrained),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ChosenRates:
        """What `to_dict` gave. Raises KeyError, TypeError, AttributeError or ValueError for anything else."""
        choices = tuple(RateChoice.from_dict(name, own) for name, own in values["experiments"].items())
        rates: ChosenRates = checked(
            cls(tuple(values["rates"]), tuple(values["seeds"]), choices, tuple(values["untrained"]))
        )
        return rates


@dataclass(frozen=True)
class Trials:
    """The runs of one experiment.

    Attributes:
        name: Name of the experiment.
        title: Title of its method.
        finished: Finished runs by rate.
        diverged: By rate, why a run stopped with numbers that are not finite.
        errors: Messages of runs that failed for another reason.
        missing: How many runs are neither finished nor failed.
    """

    name: str
    title: str
    finished: Mapping[float, Sequence[RunResult]]
    diverged: Mapping[float, str]
    errors: Sequence[str] = ()
    missing: int = 0


def criterion_of(summary: Summary) -> Criterion:
    """The accuracy by which the rate of a method is chosen."""
    return "local" if (summary.trainable_parameters or {}).get("personal") else "base"


def choose_rate(trials: Trials) -> RateChoice:
    """The rate with the highest mean accuracy after the last round; of equal ones, the smallest.

    A rate at which any run diverged is never chosen. Novel classes do not count: nobody has their labels.
    """
    runs = [run for own in trials.finished.values() for run in own]
    criterion: Criterion = "local" if any(criterion_of(run.finished) == "local" for run in runs) else "base"
    scores: dict[float, dict[int, float]] = {}
    errors = list(trials.errors)
    for rate, own in trials.finished.items():
        for run in own:
            score = run.final.get(criterion)
            if score is None:
                errors.append(f"The run at rate {rate:g} with seed {run.seed} has no {criterion} accuracy.")
            else:
                scores.setdefault(rate, {})[run.seed] = score
    choice = RateChoice(trials.name, trials.title, criterion, scores, trials.diverged)
    if errors or trials.missing:
        return replace(choice, error=errors[0] if errors else "")
    means = {rate: mean for rate in sorted(scores) if (mean := choice.mean(rate)) is not None}
    if not means:
        reason = next(iter(trials.diverged.values()))
        return replace(choice, error=f"At every rate of the grid, a run diverged. The first: {reason}")
    # `max` returns the first of equal ones, and the rates ascend.
    return replace(choice, rate=max(means, key=lambda rate: means[rate]))
