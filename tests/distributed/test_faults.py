"""Processes that are killed with SIGKILL: the run ends with all rounds done, and its records name what was lost."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs the extra [flower]: make test-flower")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cli.small_runs import CLIENTS, make_bench

from benchmarks.federation.faults import Faults, Scenario, outcome
from benchmarks.federation.federation import Federation
from benchmarks.federation.processes import processes
from feddtl.config import DeploymentConfig


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of a role in /proc")
def test_a_client_the_run_and_the_server_are_killed_and_the_run_ends(tmp_path):
    """Client 1 dies in round 2, the run's process alone in round 3, the server with the run in round 4."""
    experiment = make_bench(tmp_path / "bench").experiment(
        rounds=4, deployment=DeploymentConfig(min_clients=2, round_timeout=300.0)
    )
    with processes() as started:
        federation = Federation(tmp_path / "federation", CLIENTS, started)
        federation.root.mkdir()
        scenario = Scenario(federation, Faults(in_round=2, between=0, run=3, server=4), tmp_path / "run", timeout=600.0)
        scenario.play(experiment)
        found = outcome(scenario, experiment)
        alive = started.members()
    assert [round_["clients"] for round_ in found["rounds"]][:2] == [[0, 1, 2], [0, 2]]
    # Flower says that the node is unavailable or, if it has already removed it, that the message is.
    assert re.search("(Node|Message) Unavailable", found["rounds"][1]["failures"]["1"])
    assert [round_["round"] for round_ in found["rounds"]] == [1, 2, 3, 4]
    assert alive  # server and clients, which outlive a run
    assert not started.members()
