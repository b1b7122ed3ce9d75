"""The progress of a run, and the interface of the rounds that advance it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from feddtl.evaluate import ClientHits
from feddtl.federated_accuracy import FederatedAccuracy
from feddtl.messages import ServerState
from feddtl.models.lora import Tensors
from feddtl.records import RoundRecord


@dataclass(frozen=True)
class Progress:
    """The state of a run after a round, complete enough to resume exactly.

    Attributes:
        state: The server's state.
        personal: Each client's personal tensors, by client id.
        records: One record per finished round.
        memory: Memory of the client selection or of an asynchronous server.
        before: Federated accuracy before round 1, see `feddtl.runtimes.federated`; None until it is known.
        own_hits: Hits of the clients' own models after the last scored round; None if they are not known by image.
    """

    state: ServerState
    personal: Mapping[int, Tensors] = field(default_factory=dict)
    records: tuple[RoundRecord, ...] = ()
    memory: Tensors = field(default_factory=dict)
    before: FederatedAccuracy | None = None
    own_hits: ClientHits | None = None

    @property
    def virtual_seconds(self) -> float:
        """Virtual time since the start."""
        return self.records[-1].virtual_seconds if self.records else 0.0


class Rounds(ABC):
    """How clients and server take turns."""

    @abstractmethod
    def next(self, progress: Progress) -> Progress:
        """The progress after one more round. Raises ClientError, and discards the round, for an unusable update."""
