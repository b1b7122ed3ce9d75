"""Where a run stands, and what turns one round's end into the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from feddtl.messages import ServerState
from feddtl.models.lora import Tensors
from feddtl.records import FederatedAccuracy, RoundRecord


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a round: enough to go on as if never interrupted.

    Attributes:
        state: The server's state.
        personal: What each client keeps, by client id.
        records: One record per round done.
        memory: What the choice of clients, or an asynchronous server, remembers.
        before: Federated accuracy before round 1, see `feddtl.runtimes.federated`; None while it is not known.
    """

    state: ServerState
    personal: Mapping[int, Tensors] = field(default_factory=dict)
    records: tuple[RoundRecord, ...] = ()
    memory: Tensors = field(default_factory=dict)
    before: FederatedAccuracy | None = None

    @property
    def virtual_seconds(self) -> float:
        """Virtual time since the start."""
        return self.records[-1].virtual_seconds if self.records else 0.0


class Rounds(ABC):
    """How clients and server work together."""

    @abstractmethod
    def next(self, progress: Progress) -> Progress:
        """One round further. Raises ClientError, and keeps nothing of the round, where an update cannot be used."""
