"""The state of an asynchronous run, as values and as named tensors for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from feddtl.messages import ServerState
from feddtl.models.lora import Tensors
from feddtl.system.asynchronous_server import ServerMomentum
from feddtl.tensor_groups import add_prefix, select_prefix


@dataclass(frozen=True)
class Job:
    """A client that is training.

    Attributes:
        number: Number of updates started before this one.
        client: Its id.
        version: Number of updates applied when it started.
        arrival: Virtual second in which its update arrives, or in which its loss is noticed.
        lost: Whether the update is lost.
        begun: The state that the client received.
    """

    number: int
    client: int
    version: int
    arrival: float
    lost: bool
    begun: ServerState


@dataclass(frozen=True)
class UpdatesInFlight:
    """State of an asynchronous run, in addition to the server's state.

    Attributes:
        now: Virtual seconds since the start.
        started: Number of started updates.
        applied: Number of applied updates.
        momentum: Momentum of the server's model.
        jobs: Clients that are training.
    """

    now: float = 0.0
    started: int = 0
    applied: int = 0
    momentum: ServerMomentum = field(default_factory=ServerMomentum)
    jobs: tuple[Job, ...] = ()

    def next_job(self) -> Job:
        """The job that ends first; with ties, the one that started first."""
        return min(self.jobs, key=lambda job: (job.arrival, job.number))

    def to_tensors(self) -> Tensors:
        """All tensors under `in_flight/…`; a state that several jobs received is stored once."""
        counts = [[job.number, job.client, job.version, int(job.lost), job.begun.round] for job in self.jobs]
        tensors = {
            "counts": torch.tensor([self.started, self.applied]),
            "seconds": torch.tensor([self.now, self.momentum.length], dtype=torch.float64),
            "jobs": torch.tensor(counts, dtype=torch.long).view(-1, 5),
            "arrivals": torch.tensor([job.arrival for job in self.jobs], dtype=torch.float64),
            **add_prefix("previous", self.momentum.previous),
            **add_prefix("direction", self.momentum.direction),
        }
        for job in self.jobs:
            tensors |= add_prefix(f"begun/{job.version}", job.begun.tensors)
        return add_prefix("in_flight", tensors)

    @staticmethod
    def from_tensors(memory: Mapping[str, Tensor]) -> UpdatesInFlight:
        """Inverse of `to_tensors`; without tensors, a run that has not begun."""
        tensors = select_prefix(memory, "in_flight")
        if not tensors:
            return UpdatesInFlight()
        started, applied = (int(count) for count in tensors["counts"])
        now, length = (float(value) for value in tensors["seconds"])
        arrivals: list[float] = tensors["arrivals"].tolist()
        jobs = []
        for row, arrival in zip(tensors["jobs"].tolist(), arrivals, strict=True):
            number, client, version, lost, round_number = row
            begun = ServerState(round_number, select_prefix(tensors, f"begun/{version}"))
            jobs.append(Job(number, client, version, arrival, bool(lost), begun))
        momentum = ServerMomentum(select_prefix(tensors, "previous"), select_prefix(tensors, "direction"), length)
        return UpdatesInFlight(now, started, applied, momentum, tuple(jobs))
