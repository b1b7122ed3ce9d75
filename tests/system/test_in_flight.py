"""What is under way survives a file."""

from __future__ import annotations

import torch
from safetensors.torch import load, save

from feddtl.messages import ServerState
from feddtl.system.asynchronous_server import ServerMomentum
from feddtl.system.in_flight import Job, UpdatesInFlight


def job(number, arrival, *, version=0, lost=False):
    begun = ServerState(1, {"image/a": torch.full((2,), float(version)), "text/b": torch.ones(1)})
    return Job(number, number + 10, version, arrival, lost, begun)


def numbers(tensors):
    return {name: tensor.tolist() for name, tensor in tensors.items()}


def flat(in_flight):
    """Everything as numbers."""
    return (
        (in_flight.now, in_flight.started, in_flight.applied, in_flight.momentum.length),
        (numbers(in_flight.momentum.previous), numbers(in_flight.momentum.direction)),
        [
            (j.number, j.client, j.version, j.arrival, j.lost, j.begun.round, numbers(j.begun.tensors))
            for j in in_flight.jobs
        ],
    )


def test_updates_in_flight_that_were_written_and_read_are_the_same():
    """Seconds that float32 does not hold; two jobs that were sent the same state, which is there once."""
    momentum = ServerMomentum(
        {"image/a": torch.ones(2)}, {"image/a": torch.full((2,), 1 / 3, dtype=torch.float64)}, 1 / 7
    )
    jobs = (job(3, 0.1 + 0.2, version=2), job(4, 1e9 + 1 / 3, version=2), job(6, 2.0, version=5, lost=True))
    in_flight = UpdatesInFlight(100 / 3, 7, 5, momentum, jobs)
    written = in_flight.to_tensors()
    assert flat(UpdatesInFlight.from_tensors(load(save(written)))) == flat(in_flight)
    assert sum(name.startswith("in_flight/begun/") for name in written) == 2 * 2


def test_nothing_is_a_run_that_has_not_begun():
    assert UpdatesInFlight.from_tensors({}) == UpdatesInFlight()
    assert flat(UpdatesInFlight.from_tensors(load(save(UpdatesInFlight().to_tensors())))) == flat(UpdatesInFlight())


def test_the_next_job_is_the_one_that_ends_first_and_then_the_one_that_began_first():
    assert UpdatesInFlight(jobs=(job(1, 5.0), job(2, 3.0), job(0, 9.0))).next_job().number == 2
    assert UpdatesInFlight(jobs=(job(5, 3.0), job(2, 3.0))).next_job().number == 2
