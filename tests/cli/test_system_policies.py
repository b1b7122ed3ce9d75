"""Runs under system policies: killed and resumed, what the folder holds, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.killable import KillableRuns
from cli.small_runs import Bench, Command, outcome, records, refused, summary

from feddtl.config import SystemConfig
from feddtl.preparation import prepare
from feddtl.training.client_data import ClientData

POLICIES = {
    "async": ("--participation", "0.6", "--system.mode", "async", "--system.speed-spread", "1.0"),
    "fedppo": ("--participation", "0.6", "--system.selection", "fedppo", "--fedppo.update-every", "2"),
}
each_policy = pytest.mark.parametrize("policy", POLICIES)


@each_policy
def test_killed_and_resumed_is_the_uninterrupted_run(
    bench: Bench, processes: KillableRuns, tmp_path: Path, policy: str
) -> None:
    """Killed with clients at work, or with rounds that the policy has not learnt from yet."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flags = ("--system.dropout", "0.2", *POLICIES[policy])
    assert processes.run(["run", *bench.flags("--output", whole, *flags)]) == 0
    killed = processes.kill_when(
        ["run", *bench.flags("--output", cut, *flags)],
        (cut / "checkpoints" / "round-0001" / "progress.json").exists,
        slow=0.02,
    )
    assert killed
    assert len(list((cut / "checkpoints").glob("round-*"))) < 3
    assert processes.run(["run", "--resume", cut]) == 0
    assert outcome(cut) == outcome(whole)
    assert (cut / "accuracy_over_time.svg").read_bytes() == (whole / "accuracy_over_time.svg").read_bytes()


@each_policy
def test_what_a_run_says_of_its_clock(bench: Bench, tmp_path: Path, policy: str) -> None:
    folder = bench.run(tmp_path / "run", *POLICIES[policy])
    found = records(folder)
    times = [record["virtual_seconds"] for record in found]
    assert times == sorted(times)
    assert summary(folder)["virtual_seconds"] == pytest.approx(times[-1], abs=1e-3)
    assert all(len(record["clients"]) == 2 for record in found)
    assert all(("delays" in record) == (policy == "async") for record in found)
    assert (folder / "accuracy_over_time.svg").is_file()


def test_without_a_policy_time_is_counted_and_not_drawn(finished: Path) -> None:
    assert summary(finished)["virtual_seconds"] > 0
    assert all(record["lost"] == [] for record in records(finished))
    assert not (finished / "accuracy_over_time.svg").exists()


def test_fedppo_says_how_many_images_it_holds_back(bench: Bench, feddtl: Command) -> None:
    """Three clients of five images: 10 % is half an image, so one of each."""
    answer = feddtl("run", *bench.flags("--output", "run", "--rounds", 2, *POLICIES["fedppo"]))
    assert "note: 3 of 15 training images are held out for client selection." in answer.err


def test_fedppo_trains_on_no_image_that_it_measures(bench: Bench) -> None:
    """Training and validation images of each client are together those that it trains on under a uniform choice."""

    def images(data: ClientData) -> list[tuple[float, ...]]:
        return sorted(map(tuple, data.activations.all().flatten(1).tolist()))

    whole = prepare(bench.experiment(participation=0.6))
    ready = prepare(bench.experiment(participation=0.6, system=SystemConfig(selection="fedppo")))
    assert whole.validation is None
    assert ready.validation is not None
    for data, train, held in zip(whole.clients, ready.clients, ready.validation.clients, strict=True):
        assert len(held) == 1
        assert sorted([*images(train), *images(held)]) == images(data)
        assert set(images(train)).isdisjoint(images(held))


def test_policies_that_do_not_go_together_are_refused(bench: Bench, feddtl: Command) -> None:
    refused(
        feddtl("run", *bench.flags("--participation", 0.5, "--system.selection", "all")),
        "system.selection = 'all' contradicts participation = 0.5",
        "system.selection = 'uniform'",
    )
