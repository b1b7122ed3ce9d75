"""The settings that were chosen for the experiments of a comparison, by which accuracies, and as a file."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from feddtl.comparison.search import Search
from feddtl.errors import RunError
from feddtl.record_fields import checked
from feddtl.units import value_text

FORMAT = 2
"""Of tuning.json. Format 1, which has no number, is of versions that chose `local.learning_rate` alone."""
Criterion = Literal["base", "local"]
LOCAL_RATE = "local.learning_rate"
SHORT = {LOCAL_RATE: "rate", "server.learning_rate": "server rate"}
"""What tables, lines and folders call a setting; others are called by their key."""


def words_of_values(values: Mapping[str, Any]) -> str:
    """'rate 0.003, server rate 0.01, lora.rank 8'."""
    return ", ".join(f"{SHORT.get(key, key)} {value_text(value)}" for key, value in values.items())


def is_number(value: object) -> bool:
    """Whether a value can be smaller or larger than others; a truth value cannot."""
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class Tried:
    """A point that was tried.

    Attributes:
        values: By setting.
        by_seed: Accuracy in percent by seed, without runs that diverged.
        diverged: Why the point counts as worst; else ''.
    """

    values: Mapping[str, Any]
    by_seed: Mapping[int, float]
    diverged: str = ""

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None if a run diverged."""
        # Summaries have four decimals; beyond them, a mean differs by rounding alone.
        return round(statistics.mean(self.by_seed.values()), 4) if self.by_seed and not self.diverged else None

    def to_dict(self) -> dict[str, Any]:
        """As in tuning.json; seeds are texts there."""
        by_seed = {str(seed): accuracy for seed, accuracy in self.by_seed.items()}
        return {"values": dict(self.values), "mean": self.mean, "by_seed": by_seed, "diverged": self.diverged}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tried:
        """What `to_dict` gave."""
        by_seed = {int(seed): accuracy for seed, accuracy in values["by_seed"].items()}
        tried: Tried = checked(cls(values["values"], by_seed, values["diverged"]))
        return tried


@dataclass(frozen=True)
class Choice:
    """The choice for one experiment.

    Attributes:
        name: Name of the experiment.
        title: Title of its method.
        criterion: Which accuracy the choice is made by: 'local' if clients keep a part of their model, else 'base'.
        settings: What is chosen, by dotted key.
        tried: The points, as they were tried.
        error: Why nothing is chosen, from a run that failed; else ''.
        chosen: Value by setting; None if nothing is chosen, or not yet.
    """

    name: str
    title: str
    criterion: Criterion
    settings: tuple[str, ...]
    tried: tuple[Tried, ...]
    error: str = ""
    chosen: Mapping[str, Any] | None = None

    @property
    def what(self) -> str:
        """'FedDTL (shifted-feddtl)'."""
        return f"{self.title} ({self.name})"

    @property
    def mean(self) -> float | None:
        """The accuracy of the chosen point."""
        return next((one.mean for one in self.tried if one.values == self.chosen), None)

    def at_ends(self, grids: Mapping[str, Sequence[Any]]) -> list[str]:
        """The settings whose chosen value is the first or last of an ascending grid."""
        if self.chosen is None:
            return []
        ordered = [key for key in self.settings if all(is_number(value) for value in grids[key])]
        return [key for key in ordered if self.chosen[key] in (min(grids[key]), max(grids[key]))]

    def to_dict(self, grids: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """As in tuning.json."""
        return {
            "title": self.title,
            "criterion": self.criterion,
            "settings": list(self.settings),
            "chosen": None if self.chosen is None else dict(self.chosen),
            "mean": self.mean,
            "at_end_of_grid": self.at_ends(grids),
            "points": len(self.tried),
            "tried": [one.to_dict() for one in self.tried],
            "error": self.error,
        }

    @classmethod
    def from_dict(cls, name: str, values: Mapping[str, Any]) -> Choice:
        """What `to_dict` gave. Raises KeyError, TypeError, AttributeError or ValueError for anything else."""
        choice: Choice = checked(
            cls(
                name,
                values["title"],
                values["criterion"],
                tuple(values["settings"]),
                tuple(map(Tried.from_dict, values["tried"])),
                values["error"],
                values["chosen"],
            )
        )
        return choice


@dataclass(frozen=True)
class Tuned:
    """The choices of a comparison.

    Attributes:
        grids: The values of each setting, numbers in ascending order.
        search: Which of their combinations are tried.
        seeds: The seeds of the runs that the choices are made by.
        choices: One for each experiment that has any of the settings.
        without: Names of the experiments that have none, which stay as their files have them.
    """

    grids: Mapping[str, tuple[Any, ...]]
    search: Search
    seeds: tuple[int, ...]
    choices: tuple[Choice, ...]
    without: tuple[str, ...] = ()

    @property
    def by_name(self) -> dict[str, Choice]:
        """The choices by experiment."""
        return {choice.name: choice for choice in self.choices}

    @property
    def settings(self) -> list[str]:
        """The settings that are chosen for any experiment."""
        return [key for key in self.grids if any(key in choice.settings for choice in self.choices)]

    def to_dict(self) -> dict[str, Any]:
        """The content of tuning.json."""
        return {
            "format": FORMAT,
            "images": "held-back",
            "search": self.search,
            "settings": {key: list(values) for key, values in self.grids.items()},
            "seeds": list(self.seeds),
            "experiments": {choice.name: choice.to_dict(self.grids) for choice in self.choices},
            "without": list(self.without),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tuned:
        """What `to_dict` gave, or earlier versions.

        Raises:
            RunError: A later version wrote it.
            KeyError, TypeError, AttributeError or ValueError: It is something else.
        """
        found = values.get("format", 1)
        if found == 1:
            values = _from_format_1(values)
        elif found != FORMAT:
            raise RunError(
                f"The chosen settings have format {found}, and this version reads up to {FORMAT}.",
                "Use the version of feddtl that wrote them, or choose another --output.",
            )
        tuned: Tuned = checked(
            cls(
                {key: tuple(own) for key, own in values["settings"].items()},
                values["search"],
                tuple(values["seeds"]),
                tuple(Choice.from_dict(name, own) for name, own in values["experiments"].items()),
                tuple(values["without"]),
            )
        )
        return tuned


def _from_format_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same in the present format."""
    rates = values["rates"]

    def tried(own: Mapping[str, Any]) -> list[dict[str, Any]]:
        by_rate = {float(rate): by_seed for rate, by_seed in own["by_seed"].items()}
        diverged = {float(rate): reason for rate, reason in own["diverged"].items()}
        return [
            {"values": {LOCAL_RATE: rate}, "by_seed": by_rate.get(rate, {}), "diverged": diverged.get(rate, "")}
            for rate in rates
            if rate in by_rate or rate in diverged
        ]

    def choice(own: Mapping[str, Any]) -> dict[str, Any]:
        chosen = None if own["rate"] is None else {LOCAL_RATE: own["rate"]}
        return {**own, "settings": [LOCAL_RATE], "tried": tried(own), "chosen": chosen}

    return {
        "search": "coordinates",
        "settings": {LOCAL_RATE: rates},
        "seeds": values["seeds"],
        "experiments": {name: choice(own) for name, own in values["experiments"].items()},
        "without": values["untrained"],
    }
