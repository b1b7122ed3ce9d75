"""Runs that stopped go on, and what clients keep follows the server's count of rounds."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr", reason="needs the extra [flower]: make test-flower")

from cli.small_runs import CLIENTS, records
from runtimes.flower.flower_runs import assert_equal_states, facts, grid_of, in_round, make_experiment, short

from feddtl import deployment
from feddtl.errors import ClientError, RunError
from feddtl.experiment import run_experiment


def test_a_run_killed_before_its_closing_evaluation_has_it_when_resumed(bench, tmp_path):
    """The last checkpoint is that of the last round; nothing but the evaluation is done again."""

    def die(client, reply):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deployment.serve(short(bench), tmp_path / "run", grid_of(closing=die))
    assert [("federated" in record) for record in records(tmp_path / "run")] == [True, False]
    grid = grid_of()
    deployment.serve(short(bench), tmp_path / "run", grid, resume=True)
    assert {message.metadata.message_type for message in grid.sent} == {"query", "evaluate"}
    deployment.serve(short(bench), tmp_path / "whole", grid_of())
    assert records(tmp_path / "run") == records(tmp_path / "whole")
    assert facts(tmp_path / "run") == facts(tmp_path / "whole")


def test_without_a_quorum_the_run_stops_and_can_be_resumed(bench, tmp_path):
    """Two of three clients die in round 2; resumed with all of them, the run ends as if nothing had happened.

    FedPGP: client 0 trained in round 2 before the round failed, and must begin it anew from what it kept of round 1.
    """
    experiment = make_experiment(bench, "fedpgp")
    run_experiment(experiment, tmp_path / "local")
    calls = []

    def die(client, message):
        calls.append(client)
        if len(calls) > CLIENTS and client != 0:
            raise RuntimeError("power cut")

    with pytest.raises(ClientError, match=r"Round 2 has 1 usable updates of 3, deployment\.min_clients = 2") as caught:
        deployment.serve(experiment, tmp_path / "run", grid_of(before=die))
    assert "Client 1: it failed: RuntimeError: power cut" in caught.value.message
    assert len(list((tmp_path / "run" / "checkpoints").glob("round-*"))) == 1
    deployment.client_side.cache_clear()
    deployment.serve(experiment, tmp_path / "run", grid_of(), resume=True)
    assert_equal_states(tmp_path / "run", tmp_path / "local")
    assert records(tmp_path / "run") == records(tmp_path / "local")


def test_a_client_whose_update_was_rejected_begins_where_it_was_before(bench, tmp_path):
    """Client 1's reply of round 2 is lost: in round 3 it is told to go on from round 1, the others from round 2."""
    grid = grid_of(after=in_round(2, 1, lambda reply: None))
    deployment.serve(make_experiment(bench, "fedpgp"), tmp_path / "run", grid)
    assert [record["lost"] for record in records(tmp_path / "run")] == [[], [1], []]
    scalars = [m.content.config_records["scalars"] for m in grid.sent if m.metadata.message_type == "train"]
    kept = {number: {s["client"]: s["kept"] for s in scalars if s["round"] == number} for number in (1, 2, 3)}
    assert kept == {1: {0: 0, 1: 0, 2: 0}, 2: {0: 1, 1: 1, 2: 1}, 3: {0: 2, 1: 1, 2: 2}}


def test_a_client_that_lost_its_disk_is_named(bench, tmp_path, state_of_clients):
    def burn(client, message):
        if client == 1 and message.content.config_records["scalars"]["kept"] == 1:
            for path in state_of_clients.rglob("client-1/*"):
                path.unlink()

    deployment.serve(make_experiment(bench, "fedpgp"), tmp_path / "run", grid_of(before=burn))
    [_, second, third] = records(tmp_path / "run")
    assert "This client's personal state after round 1 cannot be read" in second["failures"]["1"]
    assert third["lost"] == [1]


def stopped_in_round_2(bench, method, folder):
    """The experiment of a run over Flower that lost all its clients."""

    def die(client, message):
        if message.content.config_records["scalars"]["round"] == 2:
            raise RuntimeError("power cut")

    experiment = make_experiment(bench, method)
    with pytest.raises(ClientError, match="usable updates"):
        deployment.serve(experiment, folder, grid_of(before=die))
    return experiment


def test_a_run_whose_clients_keep_something_goes_on_over_flower_alone(bench, tmp_path):
    """In one process the personal parts would begin anew, without a word."""
    experiment = stopped_in_round_2(bench, "fedpgp", tmp_path / "run")
    with pytest.raises(RunError, match="was started over Flower") as caught:
        run_experiment(experiment, tmp_path / "run", resume=True)
    assert f"feddtl submit --resume {tmp_path / 'run'}" in caught.value.hint
    with pytest.raises(RunError) as caught:
        run_experiment(experiment, tmp_path / "run")
    assert f"feddtl submit --resume {tmp_path / 'run'}" in caught.value.hint


def test_a_run_whose_clients_keep_nothing_may_go_on_in_one_process(bench, tmp_path):
    experiment = stopped_in_round_2(bench, "fedlora", tmp_path / "run")
    run_experiment(experiment, tmp_path / "run", resume=True)
    run_experiment(experiment, tmp_path / "local")
    assert_equal_states(tmp_path / "run", tmp_path / "local")
