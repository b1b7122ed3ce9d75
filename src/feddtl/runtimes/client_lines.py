"""What a client's log says to whoever runs the client: its images, and what each round did for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from feddtl.data.own_images import OwnImages
from feddtl.data.table import ImageTable
from feddtl.evaluate import HitCounts
from feddtl.runtimes.wire.contract import Parcel
from feddtl.units import counted, first_few, percent, size

MOST_CLASSES = 100


def images_lines(client: str, own: OwnImages, base: Sequence[str], novel: Sequence[str]) -> list[str]:
    """How many images a client has, and of which classes.

    Args:
        client: What it is called.
        own: Its images.
        base: The base classes, in label order.
        novel: The novel classes, in label order.
    """
    train, tests = counted(len(own.train), "training image"), counted(len(own.test_base), "test image")
    lines = [f"{client} has {train} and {tests} of base classes, {len(own.test_novel)} of novel classes"]
    trained, tested = _counts(own.train, len(base)), _counts(own.test_base, len(base))
    there = [
        f"{name} {here}/{scored}" for name, here, scored in zip(base, trained, tested, strict=True) if here or scored
    ]
    lines.append(f"base classes (training/test images): {first_few(there, MOST_CLASSES) or 'none'}")
    found = [f"{name} {count}" for name, count in zip(novel, _counts(own.test_novel, len(novel)), strict=True) if count]
    if found:
        lines.append(f"novel classes (test images): {first_few(found, MOST_CLASSES)}")
    return lines


def round_line(before: HitCounts | None, after: HitCounts | None, received: Parcel, sent: Parcel) -> str:
    """What a round did for a client, on its own test images.

    Args:
        before: Hits of the model that it received; None in a round that is not scored.
        after: Hits of its own model after training; None likewise.
        received: The broadcast.
        sent: The reply.
    """
    moved = f"received {size(_bytes(received))}, sends {size(_bytes(sent))}"
    scores = [f"{name} accuracy {text}" for name, text in _accuracies(before, after)]
    return "; ".join([*(scores or ["not scored"]), moved])


def evaluation_line(model: str, counts: HitCounts) -> str:
    """How a model, such as 'the final model', does on a client's own test images."""
    parts = [f"{name} accuracy {percent(value)} % on {images}" for name, value, images in _halves(counts)]
    return f"{model}: {', '.join(parts)}" if parts else f"{model} was not scored: there is no test image"


def _accuracies(before: HitCounts | None, after: HitCounts | None) -> list[tuple[str, str]]:
    """'base', '61.7 % before, 70.0 % after training, on 40 test images'."""
    first = {name: value for name, value, _ in _halves(before)}
    last = {name: value for name, value, _ in _halves(after)}
    images = {name: text for counts in (before, after) for name, _, text in _halves(counts)}
    return [
        (name, f"{percent(first.get(name))} % before, {percent(last.get(name))} % after training, on {text}")
        for name, text in images.items()
    ]


def _halves(counts: HitCounts | None) -> list[tuple[str, float, str]]:
    """Name, accuracy and number of images of base and of novel classes, where there are images."""
    if counts is None:
        return []
    halves = (("base", counts.base, counts.base_images), ("novel", counts.novel, counts.novel_images))
    return [(name, 100 * hits / images, counted(images, "test image")) for name, hits, images in halves if images]


def _counts(table: ImageTable, classes: int) -> list[int]:
    return np.bincount(table.labels, minlength=classes).tolist() if len(table) else [0] * classes


def _bytes(parcel: Parcel) -> int:
    return sum(array.nbytes for array in parcel.arrays.values())
