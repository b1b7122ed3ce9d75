"""Received numbers, each checked before it is used."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from feddtl.evaluate import HitCounts, Scores
from feddtl.runtimes.node import ImageCounts
from feddtl.runtimes.wire.contract import RejectedMessageError, Scalar, short

MAX_METRICS = 64
METRIC_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def whole_number(scalars: Mapping[str, Scalar], name: str, least: int) -> int:
    """One of the scalars. Raises RejectedMessageError, as everything here."""
    value = scalars.get(name)
    if type(value) is not int or value < least:
        raise RejectedMessageError(f"{name} is {short(value)}, not a whole number of {least} or more.")
    return value


def require_numbers(scalars: Mapping[str, Scalar], **wanted: int) -> None:
    """Exactly these whole numbers."""
    for name, value in wanted.items():
        if (found := whole_number(scalars, name, 0)) != value:
            raise RejectedMessageError(f"{name} is {found}, not {value}.")


def finite_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """A few finite numbers, by names that are valid in a record."""
    if len(metrics) > MAX_METRICS:
        raise RejectedMessageError(f"There are {len(metrics)} metrics; {MAX_METRICS} are allowed.")
    for name, value in metrics.items():
        if not METRIC_NAME.fullmatch(name):
            raise RejectedMessageError(f"The metric '{short(name)}' has a name that is not {METRIC_NAME.pattern}.")
        if type(value) not in (int, float) or not math.isfinite(value):
            raise RejectedMessageError(f"The metric '{name}' is {short(value)}, not a finite number.")
    return {name: float(value) for name, value in metrics.items()}


def accuracies(scalars: Mapping[str, Scalar]) -> Scores:
    """Accuracies in percent, or NaN if the client has no such images."""
    found: dict[str, float] = {}
    for name in ("base", "novel"):
        value = scalars.get(name)
        if not isinstance(value, float) or not (math.isnan(value) or 0 <= value <= 100):
            raise RejectedMessageError(f"The accuracy '{name}' is {short(value)}, not a number from 0 to 100.")
        found[name] = value
    return Scores(math.nan, found["base"], found["novel"])


def hit_counts(scalars: Mapping[str, Scalar], model: str, images: ImageCounts) -> HitCounts:
    """How many predictions are right, of exactly the test images that the client has."""
    right: list[int] = []
    for half, total in (("base", images.base), ("novel", images.novel)):
        require_numbers(scalars, **{f"{model}_{half}_images": total})
        right.append(whole_number(scalars, f"{model}_{half}", 0))
        if right[-1] > total:
            raise RejectedMessageError(f"{model}_{half} is {right[-1]} of {total} images.")
    return HitCounts(right[0], images.base, right[1], images.novel)
