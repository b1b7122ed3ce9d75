"""Federated accuracy: each client scores the global model on its own test images, without a central test set.

A client scores the broadcast model, so its reply in round t + 1 scores the model after round t and is added to the
record of round t. The replies of round 1 score the model before training; a closing evaluation by all clients scores
the final one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from feddtl.evaluate import HitCounts
from feddtl.observers import RunObserver
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
    progress: Progress,
    counts: Mapping[int, HitCounts],
    failures: Mapping[int, str] | None = None,
    observer: RunObserver | None = None,
) -> Progress:
    """The progress with the clients' counts for its current model, which the observer receives.

    Without counts and failures, the same progress, and no event.
    """
    if not counts and not failures:
        return progress
    federated = federated_accuracy(counts, failures or {})
    if observer is not None:
        observer.clients_counted(progress.state.round, federated)
    if not progress.records:
        return replace(progress, before=federated)
    return replace(progress, records=(*progress.records[:-1], replace(progress.records[-1], federated=federated)))


def federated_of(progress: Progress) -> FederatedAccuracy | None:
    """Federated accuracy of the current model; None until clients have scored it."""
    return progress.records[-1].federated if progress.records else progress.before
