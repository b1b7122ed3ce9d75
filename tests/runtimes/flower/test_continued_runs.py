"""Runs over Flower that get more rounds, or that begin with the model of another run: equal to one process."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("flwr", reason="needs the extra [flower]: make test-flower")

from cli.small_runs import contents, records
from runtimes.flower.flower_runs import Notes, assert_equal_states, facts, grid_of, make_experiment, short

from feddtl import deployment
from feddtl.config import ScheduleConfig
from feddtl.errors import ConfigError, RunError
from feddtl.experiment import run_experiment


def assert_same_run(ours, theirs):
    assert_equal_states(ours, theirs)
    assert records(ours) == records(theirs)
    assert facts(ours) == facts(theirs)


def test_an_extended_run_is_the_one_that_was_asked_for_at_once(bench, tmp_path):
    """Round 3 is run again: it was the last one. FedPGP's clients begin it from what they kept of round 2."""
    experiment = make_experiment(bench, "fedpgp")
    deployment.serve(experiment, tmp_path / "run", grid_of())
    longer = replace(experiment, rounds=4)
    deployment.serve(longer, tmp_path / "run", grid_of(), resume=True)
    run_experiment(longer, tmp_path / "local")
    assert_same_run(tmp_path / "run", tmp_path / "local")


def test_a_run_that_cannot_be_extended_says_why_and_no_client_is_asked(bench, tmp_path):
    experiment = replace(short(bench), schedule=ScheduleConfig())
    deployment.serve(experiment, tmp_path / "run", grid_of())
    before, grid = contents(tmp_path / "run"), grid_of()
    with pytest.raises(RunError, match="round 2 belongs to the RL stage there") as caught:
        deployment.serve(replace(experiment, rounds=8), tmp_path / "run", grid, resume=True)
    assert "feddtl submit --rounds 8" in caught.value.hint
    assert not grid.sent
    assert contents(tmp_path / "run") == before


def test_a_run_begins_with_the_model_of_another_one(bench, tmp_path):
    """FedSA-LoRA's clients keep B, which is not taken, in one process and over Flower alike."""
    old = tmp_path / "old"
    run_experiment(replace(short(bench), method="fedsa-lora"), old)
    experiment, notes, grid = make_experiment(bench, "fedsa-lora", init_from=str(old)), Notes(), grid_of()
    run_experiment(experiment, tmp_path / "local")
    deployment.serve(experiment, tmp_path / "run", grid, observer=notes)
    assert_same_run(tmp_path / "run", tmp_path / "local")
    assert any(line.startswith(f"Before training, the model of {old} scores") for line in notes.lines)
    # A client has no use for a folder of the server.
    assert not [message for message in grid.sent if str(old) in repr(message.content)]
    grid = grid_of()
    before = contents(tmp_path / "local")
    with pytest.raises(RunError, match="was run in one process; the personal parts of its clients are in this folder"):
        deployment.serve(replace(experiment, rounds=4), tmp_path / "local", grid, resume=True)
    assert contents(tmp_path / "local") == before
    with pytest.raises(ConfigError, match="it lacks 1 tensor of PromptFL"):
        deployment.serve(replace(experiment, method="promptfl"), tmp_path / "other", grid)
    assert not grid.sent
    assert not (tmp_path / "other").exists()
