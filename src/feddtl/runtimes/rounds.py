"""Where a run stands, who watches it, and what turns one round's end into the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from feddtl.messages import ServerState
from feddtl.models.lora import Tensors
from feddtl.records import FederatedAccuracy, RoundRecord


class RoundObserver:
    """Told what happens; the default watches nothing."""

    def round_started(self, round_number: int, stage: str, clients: Sequence[int]) -> None:
        """A round begins with these clients; without rounds in lockstep, those at work when it begins."""

    def epoch_finished(self, client: int, epoch: int, epochs: int) -> None:
        """A client finished a local epoch."""

    def client_finished(self, client: int) -> None:
        """A client's update arrived."""

    def round_finished(self, record: RoundRecord) -> None:
        """The round is aggregated and scored."""

    def clients_counted(self, round_number: int, federated: FederatedAccuracy) -> None:
        """Clients scored the global model after a round, 0 for none, on images of their own."""


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
