"""Which points a search tries: by hand, and on random accuracies against what must always be true."""

from __future__ import annotations

import random
from itertools import product
from math import prod
from typing import Any

import pytest

from feddtl.comparison.search import Accuracies, Point, Progress, Search, progress

AXES = [(1, 2, 3), (10, 20)]


def followed(
    search: Search, axes: Any, start: Point, accuracy: Any, steps: list[tuple[Point, ...]] | None = None
) -> tuple[Point | None, dict[Point, float | None]]:
    """The result of a search to its end, and every point that it tried."""
    known: dict[Point, float | None] = {}
    while (found := progress(search, axes, start, known)).missing:
        assert not known.keys() & set(found.missing)
        assert found.later >= 0
        known |= {point: accuracy(point) for point in found.missing}
        if steps is not None:
            steps.append(found.missing)
    return found.best, known


def test_coordinates_by_hand() -> None:
    """From (·, 10): 2 is best, then 20 with it, then 3 with 20; nothing is better than (3, 20) in one setting."""
    accuracies = {(1, 10): 5, (2, 10): 6, (3, 10): 4, (1, 20): 7, (2, 20): 8, (3, 20): 9}
    steps: list[tuple[Point, ...]] = []
    best, _ = followed("coordinates", AXES, (1, 10), accuracies.__getitem__, steps)
    assert steps == [((1, 10), (2, 10), (3, 10)), ((2, 20),), ((1, 20), (3, 20))]
    assert best == (3, 20)


def test_a_setting_with_which_everything_diverges_does_not_end_the_search() -> None:
    """Nothing is finite with 10, so 20 is tried with the start's 2, and then the other values with 20."""
    accuracies = {**dict.fromkeys([(1, 10), (2, 10), (3, 10)]), (1, 20): 7, (2, 20): 6, (3, 20): None}
    steps: list[tuple[Point, ...]] = []
    best, _ = followed("coordinates", AXES, (2, 10), accuracies.__getitem__, steps)
    assert steps == [((1, 10), (2, 10), (3, 10)), ((2, 20),), ((1, 20), (3, 20))]
    assert best == (1, 20)


def test_what_follows_at_least() -> None:
    assert progress("coordinates", AXES, (1, 10), {}) == Progress(((1, 10), (2, 10), (3, 10)), 1, None)
    line: Accuracies = {(1, 10): 5, (2, 10): 6, (3, 10): 4}
    assert progress("coordinates", AXES, (1, 10), line) == Progress(((2, 20),), 0, (2, 10))


def test_the_other_searches() -> None:
    _, known = followed("product", AXES, (1, 10), sum)
    assert list(known) == [(1, 10), (1, 20), (2, 10), (2, 20), (3, 10), (3, 20)]
    best, known = followed("together", [(1, 2, 3), (10, 20, 30)], (1, 10), lambda point: -point[0])
    assert (best, list(known)) == ((1, 10), [(1, 10), (2, 20), (3, 30)])


def test_one_setting_is_tried_once_whatever_the_search() -> None:
    for search in ("coordinates", "product", "together"):
        assert followed(search, [(1, 2, 3)], (2,), lambda point: 7)[0] == (1,)


@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_better_in_one_setting_alone(seed: int) -> None:
    """Coarse accuracies, so with many ties, and some points that diverge."""
    chance = random.Random(seed)
    axes = [tuple(range(chance.randint(2, 5))) for _ in range(chance.randint(1, 3))]
    accuracies = {point: chance.choice([None, 10, 20, 30, 40, 50]) for point in product(*axes)}
    start = tuple(chance.choice(axis) for axis in axes)
    best, known = followed("coordinates", axes, start, accuracies.__getitem__)
    assert len(known) <= prod(map(len, axes))
    if best is None:
        assert set(known.values()) == {None}
        return
    highest = max(value for value in known.values() if value is not None)
    assert accuracies[best] == highest
    for axis, values in enumerate(axes):
        rivals = [(*best[:axis], value, *best[axis + 1 :]) for value in values]
        assert set(rivals) <= set(known)
        assert best == min((rival for rival in rivals if accuracies[rival] == highest), default=None)
    of_all, _ = followed("product", axes, start, accuracies.__getitem__)
    assert of_all is not None
    assert (accuracies[of_all] or 0) >= highest
