"""Federated accuracy: clients score the global model, each on test images of its own, without a central test set.

A client scores what it is broadcast, so that its reply in round t + 1 tells of the model after round t, and joins the
record of round t. The replies of round 1 tell of the model before training; a closing evaluation of all clients tells
of the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from feddtl.evaluate import HitCounts
from feddtl.records import FederatedAccuracy
from feddtl.runtimes.rounds import Progress


def federated_accuracy(counts: Mapping[int, HitCounts], failures: Mapping[int, str]) -> FederatedAccuracy:
    """Accuracy over the images of all clients that counted, so that each image weighs the same.

    Args:
        counts: By client.
        failures: By client, why it did not count.
    """
    total = sum(counts.values(), HitCounts(0, 0))
    scores = total.scores
    return FederatedAccuracy(
        scores.base,
        scores.novel,
        scores.harmonic_mean,
        total.base_images,
        total.novel_images,
        sorted(counts),
        dict(failures),
    )


def with_counts(
    progress: Progress, counts: Mapping[int, HitCounts], failures: Mapping[int, str] | None = None
) -> Progress:
    """The progress with what clients counted about the model that it stands at.

    Without any count nothing changes.
    """
    if not counts and not failures:
        return progress
    federated = federated_accuracy(counts, failures or {})
    if not progress.records:
        return replace(progress, before=federated)
    return replace(progress, records=(*progress.records[:-1], replace(progress.records[-1], federated=federated)))


def federated_of(progress: Progress) -> FederatedAccuracy | None:
    """Federated accuracy of the model that the progress stands at; None while clients have not scored it."""
    return progress.records[-1].federated if progress.records else progress.before
