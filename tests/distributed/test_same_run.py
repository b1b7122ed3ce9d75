"""One experiment in one process, in Flower's simulation over Ray, and with processes of their own over TLS: one result.

The tests of the rounds over a network in memory are in tests/runtimes/flower/.
"""

from __future__ import annotations

import json
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra [flower]: make test-distributed")

from cli.small_runs import CLIENTS, final_state, records, summary
from distributed.federation import background, feddtl, says, wait_until

from feddtl.config import DeploymentConfig, ScheduleConfig
from feddtl.experiment import run_experiment
from feddtl.experiment_file import experiment_to_dict
from feddtl.launch.connection import toml_text
from feddtl.launch.processes import FlowerCli, flower_environment, flower_program, free_port, running_with_lines
from feddtl.launch.submission import COMPLETED, run_status

APP = Path(__file__).parents[2] / "integrations" / "flower"
ROUNDS = 4
TIMED = {"seconds", "seconds_by_phase"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def experiment(bench):
    """Two supervised rounds and two of GRPO; a time limit that a busy machine keeps."""
    return bench.experiment(
        rounds=ROUNDS,
        schedule=ScheduleConfig(sft_rounds=2),
        deployment=DeploymentConfig(round_timeout=600, min_clients=CLIENTS),
    )


@pytest.fixture(scope="module")
def in_one_process(experiment, tmp_path_factory):
    """The run that the others are compared with; its activations are there for all of them."""
    folder = tmp_path_factory.mktemp("local") / "run"
    run_experiment(experiment, folder)
    return folder


@pytest.fixture(autouse=True)
def nothing_is_sent(monkeypatch, tmp_path):
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("FEDDTL_STATE", str(tmp_path / "state"))


def assert_same_run(run: Path, expected: Path) -> None:
    """Adapters to 1e-6, records and summary to the last digit that is not rounding."""
    ours, theirs = final_state(run), final_state(expected)
    # Clients elsewhere report how many of their images are right, not which.
    theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith("own_hits/")}
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-6, rtol=0)
    assert [record["round"] for record in records(run)] == list(range(1, ROUNDS + 1))
    assert_alike(records(run), records(expected))
    facts = ({key: value for key, value in summary(folder).items() if key not in TIMED} for folder in (run, expected))
    assert_alike(*facts)


def assert_alike(ours: object, theirs: object) -> None:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        ours, theirs = list(ours.values()), list(theirs.values())
    if isinstance(ours, list) and isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_alike(one, other)
    else:
        assert ours == (pytest.approx(theirs, rel=1e-4, abs=1e-6) if isinstance(theirs, float) else theirs)


def test_three_clients_over_tls(bench, experiment, in_one_process, tmp_path):
    """Keys, server, clients and run, each by its command; the images are given to the clients alone as --data.

    The run is asked for its first three rounds, and then for one more.
    """
    port, keys = free_port(), tmp_path / "keys"
    subprocess.run(feddtl("keys", keys, "--clients", CLIENTS), check=True)
    with ExitStack() as processes:
        log = tmp_path / "server.log"
        processes.enter_context(background(feddtl("server", "--keys", keys / "server", "--port", port), log, {}))
        wait_until(says(log, "feddtl: The server listens on"), "the server never listened")
        for client in range(CLIENTS):
            words = ("--id", client, "--server", f"127.0.0.1:{port}", "--keys", keys / f"client-{client}")
            command = feddtl("client", *words, "--data", bench.photos, "--state", tmp_path / f"state-{client}")
            processes.enter_context(background(command, tmp_path / f"client-{client}.log", {}))
        flags = ("--schedule.sft-rounds", 2, "--deployment.min-clients", CLIENTS, "--deployment.round-timeout", 600)
        words = bench.flags("--output", tmp_path / "run", "--json", "--rounds", ROUNDS - 1, *flags)
        for asked in (words, ("--resume", tmp_path / "run", "--rounds", ROUNDS, "--json")):
            submitted = subprocess.run(feddtl("submit", *asked), capture_output=True, text=True, check=False)
            assert submitted.returncode == 0, submitted.stderr
    assert json.loads(submitted.stdout) == summary(tmp_path / "run")
    assert_same_run(tmp_path / "run", in_one_process)


def test_simulation_over_ray(experiment, in_one_process, tmp_path):
    """`flwr run` of the app folder; the SuperLink is one of this test, so that it ends with it."""
    pytest.importorskip("ray")
    home, folder, port = tmp_path / "flower", tmp_path / "empty", free_port()
    home.mkdir()
    folder.mkdir()
    address = toml_text({"address": f"127.0.0.1:{port}", "insecure": True})
    (home / "config.toml").write_text(f'[superlink]\ndefault = "feddtl"\n[superlink.feddtl]\n{address}')
    run_config = {"settings": json.dumps(experiment_to_dict(experiment)), "output": str(tmp_path / "run")}
    (tmp_path / "run.toml").write_text(toml_text(run_config))
    environment = flower_environment(home)
    superlink = [
        *(flower_program("flower-superlink"), "--insecure", "--simulation", "--host", "127.0.0.1"),
        *("--port", str(port), "--database", str(home / "superlink.db"), "--disable-runtime-dependency-installation"),
    ]
    command = [
        *(flower_program("flwr"), "run", str(APP), "feddtl", "--format", "json"),
        *("--run-config", str(tmp_path / "run.toml"), "--federation-config", f"num-supernodes={CLIENTS}"),
    ]
    with running_with_lines(superlink, environment, folder, print):
        wait_until(lambda: listens(port), "SuperLink never listened")
        started = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        run = int(json.loads(started.stdout)["run-id"])
        cli = FlowerCli(home, folder)
        wait_until(lambda: run_status(cli, run).finished, "the run never finished", 1000)
        status = run_status(cli, run)
    assert status.status == COMPLETED, status.details
    assert_same_run(tmp_path / "run", in_one_process)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
