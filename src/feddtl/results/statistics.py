"""Mean and spread over seeds, intervals, and paired differences between methods."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from feddtl.units import percent


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1); None where there are too few values.

    Attributes:
        mean: Of one value or more.
        std: Of two or more.
        n: How many.
    """

    mean: float | None
    std: float | None
    n: int

    @property
    def plus_minus(self) -> str:
        """'± 0.3'; empty for fewer than two values."""
        return "" if self.std is None else f"± {percent(self.std)}"


def spread_of(values: Iterable[float | None]) -> Spread:
    """Spread of the values that are not None."""
    known = [value for value in values if value is not None]
    mean = statistics.mean(known) if known else None
    return Spread(mean, statistics.stdev(known) if len(known) > 1 else None, len(known))


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero is outside it; an end at zero is inside."""
        return self.low > 0 or self.high < 0

    @property
    def text(self) -> str:
        """'[59.5, 64.7]', with true minus signs; no sign where an end rounds to zero."""
        return f"[{_one_decimal(self.low)}, {_one_decimal(self.high)}]"


def _one_decimal(value: float) -> str:
    return f"{value:.1f}".replace("-", "−") if round(value, 1) else "0.0"


@dataclass(frozen=True)
class Difference:
    """A method minus another over the seeds that both have.

    Attributes:
        mean: Mean of the differences.
        n: Number of seeds.
        interval: Of the mean, over seeds and test images; None where the hits are not known by image.
    """

    mean: float
    n: int
    interval: Interval | None = None


def paired_difference(
    values: Mapping[int, float], others: Mapping[int, float], interval: Interval | None = None
) -> Difference | None:
    """The difference of two methods, whose values are given by seed; None if they share no seed."""
    differences = [value - others[seed] for seed, value in values.items() if seed in others]
    return Difference(statistics.mean(differences), len(differences), interval) if differences else None
