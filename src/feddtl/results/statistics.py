"""Mean and spread over seeds, and paired differences between methods."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
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
class Difference:
    """A method minus another over the seeds that both have.

    Attributes:
        mean: Mean of the differences.
        p: Two-sided p-value of the paired t-test; None for fewer than two seeds, or where all differences are equal.
        n: Number of seeds.
    """

    mean: float
    p: float | None
    n: int


def paired_difference(values: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
    """The difference of two methods, whose values are given by seed; None if they share no seed."""
    differences = [value - others[seed] for seed, value in values.items() if seed in others]
    if not differences:
        return None
    return Difference(statistics.mean(differences), paired_t_test(differences), len(differences))


def paired_t_test(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of a mean difference of zero, t = d̄ / (s / √n) with n - 1 degrees of freedom.

    It assumes that differences are normally distributed over seeds, which a few seeds cannot show.
    """
    n = len(differences)
    if n < 2 or math.isclose(min(differences), max(differences), abs_tol=1e-9):
        return None
    t = statistics.mean(differences) / (statistics.stdev(differences) / math.sqrt(n))
    return t_two_sided(t, n - 1)


def t_two_sided(t: float, degrees: int) -> float:
    """P(|T| > |t|) for Student's t, as the finite series in θ = atan(|t| / √ν).

    Odd ν:  1 - P = 2/π · (θ + sin θ · (cos θ + 2/3 · cos³ θ + … + (2·4…(ν-3)) / (3·5…(ν-2)) · cos^(ν-2) θ))
    Even ν: 1 - P = sin θ · (1 + 1/2 · cos² θ + … + (1·3…(ν-3)) / (2·4…(ν-2)) · cos^(ν-2) θ)

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan(abs(t) / math.sqrt(degrees))
    odd = degrees % 2
    power = math.cos(angle) if odd else 1.0
    term, total = power, 0.0
    for k in range(odd, degrees - 1, 2):  # the exponent of cos θ, up to ν - 2
        total += term
        term *= (k + 1) / (k + 2) * math.cos(angle) ** 2
    inside = math.sin(angle) * total
    if odd:
        inside = 2 / math.pi * (angle + inside)
    return min(1.0, max(0.0, 1 - inside))
