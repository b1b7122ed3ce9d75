"""Accuracies of different rounds over the same clients, where the clients alone have test images.

A client that is away takes its images out of a round's accuracy, so that rounds differ in what they measure. Those that
scored every round can be compared; see `over_same_clients`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from feddtl.evaluate import HitCounts
from feddtl.federated_accuracy import FederatedAccuracy
from feddtl.records import RoundRecord
from feddtl.runtimes.federated import among, images_by_client, with_all_images
from feddtl.units import NUMBERED, ClientNames, rounds_named

MOST_NAMED = 4
LEAST_SHARE = 0.5
"""Clients with a smaller share of the test images say too little about all of them."""

History = Mapping[int, FederatedAccuracy]
"""The clients' scores of a run's models by round, 0 before training."""


@dataclass(frozen=True)
class SameClients:
    """How to compare rounds of which some lack clients.

    Attributes:
        clients: Those that scored every round; empty where they have too few images, and the numbers stay as counted.
        incomplete: Rounds that lack clients, 0 before training.
        caption: What the numbers are of, and who is missing when and why.
    """

    clients: frozenset[int]
    incomplete: frozenset[int]
    caption: str

    def scores(self, found: FederatedAccuracy) -> FederatedAccuracy:
        """The accuracy over these clients; as counted, if there are none or not all of them counted."""
        return among(found, self.clients) if self.clients and found.counts.keys() >= self.clients else found

    def record(self, record: RoundRecord) -> RoundRecord:
        """A record with base, novel and harmonic mean over these clients."""
        return replace(record, federated=self.scores(record.federated)) if record.federated else record


def over_same_clients(histories: Sequence[History], names: ClientNames = NUMBERED) -> SameClients | None:
    """How to compare all rounds of some runs with the same clients; None where no round lacks a client.

    Args:
        histories: Of each run.
        names: What the clients are called.
    """
    everything = [found for history in histories for found in history.values()]
    known = images_by_client(everything)
    complete = [{number: with_all_images(f, known) for number, f in history.items()} for history in histories]
    incomplete = {number for history in complete for number, found in history.items() if found.missing}
    if not incomplete:
        return None
    # A round that nobody scored has no accuracy to compare.
    always = set(known).intersection(*(found.counts for found in everything if found.clients))
    clients = frozenset(client for client in always if known[client].images)
    enough = _images(known, clients) >= LEAST_SHARE * _images(known, known) > 0
    missing = _missing(complete, names)
    if not (clients and enough):
        caption = f"Hollow points are of fewer images, because clients were missing. {missing}"
        return SameClients(frozenset(), frozenset(incomplete), caption)
    some = next(found for found in everything if found.counts.keys() >= clients)
    of = with_all_images(replace(among(some, clients), missing=[c for c in known if c not in clients]), known)
    caption = f"Over {of.images} of {names.all_of(sorted(clients))}, which scored every round. {missing}"
    return SameClients(clients, frozenset(incomplete), caption)


def _images(known: Mapping[int, HitCounts], clients: Collection[int]) -> int:
    return sum(known[client].images for client in clients)


def _missing(histories: Iterable[History], names: ClientNames) -> str:
    """'Missing: client 2 (round 1: no reply within 60 seconds).'"""
    rounds: dict[int, set[int]] = {}
    reasons: dict[int, str] = {}
    for history in histories:
        for number, found in history.items():
            for client in found.missing:
                rounds.setdefault(client, set()).add(number)
                reasons.setdefault(client, found.failures.get(client, "not asked"))
    shown = [
        f"{names.one(client)} ({rounds_named(sorted(rounds[client]))}: {reasons[client].rstrip('.')})"
        for client in sorted(rounds)[:MOST_NAMED]
    ]
    more = f" and {len(rounds) - MOST_NAMED} more" if len(rounds) > MOST_NAMED else ""
    return f"Missing: {'; '.join(shown)}{more}."
