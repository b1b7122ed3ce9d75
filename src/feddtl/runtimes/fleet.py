"""Where the clients of a round train: in this process, or elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from feddtl.errors import ClientError
from feddtl.evaluate import HitCounts, Scores
from feddtl.messages import Payload, Update
from feddtl.runtimes.context import RunContext
from feddtl.runtimes.rounds import Progress


@dataclass(frozen=True)
class Arrivals:
    """The results of a round's clients.

    Attributes:
        updates: The usable updates, sorted by client.
        failures: By client, why it has no usable update.
        scores: By client, scores of its own model, if only the client can measure them; NaN in rounds that do not ask
            for them.
        counts: By client, hits of the broadcast model on its own test images, if the previous round is scored; a client
            without test images has none, or counts of zero.
        own: By client, hits of its own model on these images, if it was asked for them.
        sizes: By client, bytes of its update on the wire, without framing.
    """

    updates: list[Update]
    failures: Mapping[int, str] = field(default_factory=dict)
    scores: Mapping[int, Scores] = field(default_factory=dict)
    counts: Mapping[int, HitCounts] = field(default_factory=dict)
    own: Mapping[int, HitCounts] = field(default_factory=dict)
    sizes: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """The clients' hits outside a round.

    Attributes:
        counts: By client, on its own test images.
        failures: By client, why it did not count.
    """

    counts: Mapping[int, HitCounts]
    failures: Mapping[int, str] = field(default_factory=dict)


class Fleet(ABC):
    """The clients as the server of synchronous rounds sees them."""

    @abstractmethod
    def train(self, payload: Payload, clients: Sequence[int], progress: Progress) -> Arrivals:
        """Updates of these clients, given the progress before the round.

        Raises:
            ClientError: The round cannot continue with the updates that arrived.
        """

    @abstractmethod
    def train_images(self, client: int) -> int:
        """Number of a client's training images; 0 if unknown."""

    @abstractmethod
    def evaluate(self, payload: Payload, progress: Progress) -> Evaluation:
        """All clients score the broadcast of the current model; a client that fails only loses its counts."""

    def farewell(self, reason: str) -> None:  # noqa: B027 most fleets need none
        """Tell the clients why the run has ended before its last round, as far as that is possible."""


class FleetInProcess(Fleet):
    """All clients in this process, as many in a batch as the method and the device allow.

    An update that is not finite is a fault of the experiment here, so it stops the round. That of a hostile client is
    lost if the server rejects it.
    """

    def __init__(self, context: RunContext) -> None:
        self._context = context

    def train(self, payload: Payload, clients: Sequence[int], progress: Progress) -> Arrivals:
        """See `Fleet.train`."""
        context = self._context
        together = context.experiment.compute.clients_together or context.method.clients_together
        updates: list[Update] = []
        held: list[Update] = []  # of hostile clients, which send last
        sizes: dict[int, int] = {}
        failures: dict[int, str] = {}
        for start in range(0, len(clients), together):
            for update in context.train(payload, clients[start : start + together], progress.personal):
                if update.client in context.hostile.clients:
                    held.append(update)
                else:
                    arrived, sizes[update.client] = context.exchange(update, payload)
                    updates.append(arrived)
                context.observer.client_finished(update.client)
        honest = tuple(updates)
        for update in held:
            try:
                arrived, sizes[update.client] = context.hostile.received_from(update, payload, honest)
                updates.append(arrived)
            except ClientError as error:
                failures[update.client] = error.message
        updates.sort(key=lambda update: update.client)
        counted = context.experiment.is_scored(progress.state.round)
        counts = context.counts(progress.state, clients) if counted else {}
        return Arrivals(updates, failures, counts=counts, sizes=sizes)

    def train_images(self, client: int) -> int:
        """See `Fleet.train_images`."""
        return len(self._context.clients[client])

    def evaluate(self, payload: Payload, progress: Progress) -> Evaluation:
        """See `Fleet.evaluate`."""
        return Evaluation(self._context.counts(progress.state, range(len(self._context.clients))))
