"""Mean and spread over seeds."""

from __future__ import annotations

import pytest

from feddtl.spread import spread_of


def test_spread_by_hand() -> None:
    """Mean of 1, 2, 6 is 3; sample variance (4 + 1 + 9) / 2 = 7. What was not measured does not count."""
    spread = spread_of([1.0, None, 2.0, 6.0])
    assert (spread.mean, spread.std, spread.n) == (3.0, pytest.approx(7**0.5), 3)
    assert (spread_of([5.0]).mean, spread_of([5.0]).plus_minus) == (5.0, "")
    assert (spread_of([None]).mean, spread_of([]).n) == (None, 0)
