"""Short runs over Flower in memory, and what is compared of them."""

from __future__ import annotations

from pathlib import Path

import torch
from cli.small_runs import CLIENTS, final_state, summary
from runtimes.in_memory_grid import InMemoryGrid

from feddtl import deployment
from feddtl.config import DeploymentConfig, ScheduleConfig
from feddtl.observers import RunObserver
from feddtl.runtimes.flower.apps import client_app

ROUNDS = 3
TIMED = {"seconds", "seconds_by_phase"}


class Notes(RunObserver):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def make_experiment(bench, method="feddtl", **changes):
    settings = {
        "method": method,
        "rounds": ROUNDS,
        "schedule": ScheduleConfig(sft_rounds=2),
        "deployment": DeploymentConfig(round_timeout=0.2, min_clients=2),
        **changes,
    }
    return bench.experiment(**settings)


def short(bench, method="feddtl", **changes):
    """A round of each stage."""
    return make_experiment(bench, method, rounds=2, schedule=ScheduleConfig(sft_rounds=1), **changes)


def grid_of(clients=range(CLIENTS), **faults):
    return InMemoryGrid(client_app(deployment.answer), clients, **faults)


def facts(folder: Path) -> dict[str, object]:
    return {key: value for key, value in summary(folder).items() if key not in TIMED}


def assert_equal_states(ours: Path, theirs: Path, tolerance: float = 1e-6) -> None:
    """What the server holds; what clients keep is in the checkpoint of a run in one process alone."""
    here, there = ({n: t for n, t in final_state(run).items() if n.startswith("state/")} for run in (ours, theirs))
    assert here.keys() == there.keys()
    for name, tensor in here.items():
        torch.testing.assert_close(tensor, there[name], atol=tolerance, rtol=0)


def in_round(number, tampered, tamper):
    """Applies `tamper` to what one client replies in one of the rounds, all of which it takes part in."""
    seen = dict.fromkeys(range(CLIENTS), 0)

    def after(client, reply):
        seen[client] += 1
        return tamper(reply) if (client, seen[client]) == (tampered, number) else reply

    return after


def with_scalar(name, value):
    def tamper(reply):
        reply.content["scalars"][name] = value
        return reply

    return tamper


def client_of(message):
    return message.content.config_records["scalars"]["client"]
