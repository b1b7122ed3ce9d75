"""What is under way in an asynchronous run, as values and as named tensors for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from feddtl.messages import ServerState
from feddtl.models.lora import Tensors
from feddtl.system.asynchronous_server import Motion
from feddtl.tensor_groups import add_prefix, select_prefix


@dataclass(frozen=True)
class Job:
    """A client at work.

    Attributes:
        number: Updates that were started before it.
        client: Who.
        version: Updates that were applied when it started.
        arrival: Virtual second in which its update arrives, or is found to be lost.
        lost: Whether it is lost.
        begun: The state that it was sent.
    """

    number: int
    client: int
    version: int
    arrival: float
    lost: bool
    begun: ServerState


@dataclass(frozen=True)
class Flight:
    """Where an asynchronous run stands, beside the server's state.

    Attributes:
        now: Virtual seconds since the start.
        started: Updates that were started.
        applied: Updates that were applied.
        motion: Of the server's model.
        jobs: Clients at work.
    """

    now: float = 0.0
    started: int = 0
    applied: int = 0
    motion: Motion = field(default_factory=Motion)
    jobs: tuple[Job, ...] = ()

    def next_job(self) -> Job:
        """The job that ends first; of several at once, the one that started first."""
        return min(self.jobs, key=lambda job: (job.arrival, job.number))

    def to_tensors(self) -> Tensors:
        """Everything under `flight/…`; states that several jobs were sent are there once."""
        counts = [[job.number, job.client, job.version, int(job.lost), job.begun.round] for job in self.jobs]
        tensors = {
            "counts": torch.tensor([self.started, self.applied]),
            "seconds": torch.tensor([self.now, self.motion.length], dtype=torch.float64),
            "jobs": torch.tensor(counts, dtype=torch.long).view(-1, 5),
            "arrivals": torch.tensor([job.arrival for job in self.jobs], dtype=torch.float64),
            **add_prefix("previous", self.motion.previous),
            **add_prefix("direction", self.motion.direction),
        }
        for job in self.jobs:
            tensors |= add_prefix(f"begun/{job.version}", job.begun.tensors)
        return add_prefix("flight", tensors)

    @staticmethod
    def from_tensors(memory: Mapping[str, Tensor]) -> Flight:
        """What `to_tensors` gave; a run that has not begun where there is nothing."""
        tensors = select_prefix(memory, "flight")
        if not tensors:
            return Flight()
        started, applied = (int(count) for count in tensors["counts"])
        now, length = (float(value) for value in tensors["seconds"])
        arrivals: list[float] = tensors["arrivals"].tolist()
        jobs = []
        for row, arrival in zip(tensors["jobs"].tolist(), arrivals, strict=True):
            number, client, version, lost, round_number = row
            begun = ServerState(round_number, select_prefix(tensors, f"begun/{version}"))
            jobs.append(Job(number, client, version, arrival, bool(lost), begun))
        motion = Motion(select_prefix(tensors, "previous"), select_prefix(tensors, "direction"), length)
        return Flight(now, started, applied, motion, tuple(jobs))
