"""Mean and spread over seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean, stdev

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
    """Spread of the values that are there."""
    known = [value for value in values if value is not None]
    return Spread(mean(known) if known else None, stdev(known) if len(known) > 1 else None, len(known))
