"""Federated accuracy: clients score the global model, each on test images of its own, without a central test set.

A client scores what it is broadcast, so that its reply in round t + 1 tells of the model after round t, and joins the
record of round t. The replies of round 1 tell of the model before training; a closing evaluation of all clients tells
of the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from feddtl.evaluate import HitCounts
from feddtl.runtimes.rounds import Progress, Record


def federated_accuracy(counts: Mapping[int, HitCounts], failures: Mapping[int, str]) -> Record:
    """Accuracy over the images of all clients that counted, so that each image weighs the same.

    Args:
        counts: By client.
        failures: By client, why it did not count.
    """
    total = sum(counts.values(), HitCounts(0, 0))
    scores = total.scores
    return {
        "base": scores.base,
        "novel": scores.novel,
        "harmonic_mean": scores.harmonic_mean,
        "base_images": total.base_images,
        "novel_images": total.novel_images,
        "clients": sorted(counts),
        **({"failures": dict(failures)} if failures else {}),
    }


def with_counts(
    progress: Progress, counts: Mapping[int, HitCounts], failures: Mapping[int, str] | None = None
) -> Progress:
    """The progress with what clients counted about the model that it stands at.

    Where the server has no test images, the federated accuracy is also the record's own. Without any count nothing
    changes.
    """
    if not counts and not failures:
        return progress
    federated = federated_accuracy(counts, failures or {})
    if not progress.records:
        return replace(progress, before=federated)
    record = {**progress.records[-1], "federated": federated}
    if "base" not in record:
        record |= {key: federated[key] for key in ("base", "novel", "harmonic_mean")}
    return replace(progress, records=(*progress.records[:-1], record))


def federated_of(progress: Progress) -> Record:
    """Federated accuracy of the model that the progress stands at; empty while clients have not scored it."""
    return dict(progress.records[-1].get("federated", {}) if progress.records else progress.before)
