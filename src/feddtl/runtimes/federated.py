"""Federated accuracy: each client scores the global model on its own test images, without a central test set.

A client scores the broadcast model, so its reply in round t + 1 scores the model after round t and is added to the
record of round t. The replies of round 1 score the model before training; a closing evaluation by all clients scores
the final one.

Where the clients alone have test images, a client that does not answer takes its images out of the accuracy. The record
then says who is missing and how many images there are, and `among` gives the accuracy of clients that always answered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace

from feddtl.evaluate import HitCounts
from feddtl.federated_accuracy import FederatedAccuracy
from feddtl.observers import RunObserver
from feddtl.runtimes.rounds import Progress
from feddtl.units import percent


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
        sorted(client for client, found in counts.items() if found.images),
        dict(failures),
    )


def among(found: FederatedAccuracy, clients: Collection[int]) -> FederatedAccuracy:
    """The accuracy over the images of some of the clients that scored the model; their counts must be known."""
    counts = {client: HitCounts(**found.counts[client]) for client in clients}
    return replace(federated_accuracy(counts, found.failures), counts={c: found.counts[c] for c in sorted(clients)})


def images_by_client(scored: Iterable[FederatedAccuracy | None]) -> dict[int, HitCounts]:
    """Numbers of test images of each client that counted in any of these; the hits are 0."""
    return {
        client: HitCounts(0, counts["base_images"], 0, counts["novel_images"])
        for found in scored
        if found is not None
        for client, counts in found.counts.items()
    }


def with_all_images(found: FederatedAccuracy, known: Mapping[int, HitCounts]) -> FederatedAccuracy:
    """The same with the number of all clients' images, where some are missing and the number is known.

    A missing client that is known to have no test images is not missing.
    """
    missing = [client for client in found.missing if client not in known or known[client].images]
    if not missing or not known.keys() >= set(missing):
        return replace(found, missing=missing, all_base_images=None, all_novel_images=None)
    total = sum(known.values(), HitCounts(0, 0))
    return replace(
        found, missing=missing, all_base_images=total.base_images, all_novel_images=total.novel_images or None
    )


def with_counts(
    progress: Progress,
    counts: Mapping[int, HitCounts],
    failures: Mapping[int, str] | None = None,
    observer: RunObserver | None = None,
    everyone: Sequence[int] = (),
) -> Progress:
    """The progress with the clients' counts for its current model, which the observer receives.

    Without images and failures, the same progress, and no event.

    Args:
        progress: After the round whose model was counted.
        counts: By client; all zero for a client without test images.
        failures: By client, why it did not count.
        observer: Receives the accuracy.
        everyone: All clients, where they alone have test images.
    """
    if not failures and not any(found.images for found in counts.values()):
        return progress
    federated = federated_accuracy(counts, failures or {})
    if everyone:
        federated = replace(
            federated,
            missing=[client for client in everyone if client not in counts],
            counts={client: asdict(counts[client]) for client in sorted(counts)},
        )
        federated = with_all_images(federated, images_by_client([*scored_by_clients(progress), federated]))
    if not progress.records and progress.before is not None:
        # Of a model from another run; what is kept is the score of the method's own start.
        if observer is not None:
            observer.note(f"Before training, the clients score the model of the other run: {_shares(federated)}.")
        return progress
    if observer is not None:
        observer.clients_counted(progress.state.round, federated)
    if not progress.records:
        return replace(progress, before=federated)
    return replace(progress, records=(*progress.records[:-1], replace(progress.records[-1], federated=federated)))


def _shares(found: FederatedAccuracy) -> str:
    return f"base {percent(found.base)}, novel {percent(found.novel)}"


def scored_by_clients(progress: Progress) -> list[FederatedAccuracy | None]:
    """The clients' scores of the model before training and after each round."""
    return [progress.before, *(record.federated for record in progress.records)]


def federated_of(progress: Progress) -> FederatedAccuracy | None:
    """Federated accuracy of the current model; None until clients have scored it."""
    return progress.records[-1].federated if progress.records else progress.before
