"""Which points of a grid are tried, one after another, from the accuracies of those that were.

A point has a value for each setting. The search is a function of the accuracies alone, so it goes on after an
interruption as if there had been none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple, get_args

Search = Literal["coordinates", "product", "together"]
SEARCHES: tuple[Search, ...] = get_args(Search)
Point = tuple[Any, ...]
Accuracies = Mapping[Point, float | None]
"""In percent; None: a run diverged."""


class Progress(NamedTuple):
    """How far a search is.

    Attributes:
        missing: Points without an accuracy, to be tried next; empty at the end.
        later: How many more will follow at least.
        best: The best point so far; None while there is none, or if a run diverged at every point that was tried.
    """

    missing: tuple[Point, ...]
    later: int
    best: Point | None


def progress(search: Search, axes: Sequence[Sequence[Any]], start: Point, known: Accuracies) -> Progress:
    """The next points of a search, or its result.

    Args:
        search: 'product': every combination. 'together': the first values of all settings, then the second ones, and
            so on. 'coordinates': one setting after the other, from `start`, until no other value of one alone is
            better.
        axes: The values of each setting, in ascending order; at least one setting.
        start: Where 'coordinates' begins; its first value matters only if a run diverges with each value there.
        known: Of the points that were tried.
    """
    if search == "coordinates":
        return _by_coordinates(axes, start, known)
    points: list[Point] = list(product(*axes)) if search == "product" else list(zip(*axes, strict=True))
    return Progress(tuple(point for point in points if point not in known), 0, best_of(points, known))


def best_of(points: Sequence[Point], known: Accuracies) -> Point | None:
    """The one with the highest accuracy, of equal ones the first; None if none has an accuracy."""
    scored = {point: accuracy for point in points if (accuracy := known.get(point)) is not None}
    return max(scored, key=lambda point: scored[point], default=None)


def _by_coordinates(axes: Sequence[Sequence[Any]], start: Point, known: Accuracies) -> Progress:
    """Each move is to a better point, or to an equal one with a smaller value, so the search ends.

    Where a run diverged with every value of a setting, the next setting is tried from the same point.
    """
    current, best, axis = start, None, 0
    settled = 0  # how many of the last settings were tried without a change of another one since
    while settled < len(axes):
        line = [(*current[:axis], value, *current[axis + 1 :]) for value in axes[axis]]
        if missing := tuple(point for point in line if point not in known):
            others = [axes[(axis + step) % len(axes)] for step in range(1, len(axes) - settled)]
            return Progress(missing, sum(len(values) - 1 for values in others), best)
        found = best_of(line, known)
        settled = settled + 1 if found == best else 1
        current, best = found or current, found
        axis = (axis + 1) % len(axes)
    return Progress((), 0, best)
