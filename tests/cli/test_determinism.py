"""A result depends on the experiment and its seed alone (another process: see test_resume.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli.small_runs import Bench, final_state, outcome, records


def test_same_seed_same_result(bench: Bench, tmp_path: Path) -> None:
    first = bench.run(tmp_path / "first", "--method", "fedlora")
    second = bench.run(tmp_path / "second", "--method", "fedlora")
    assert outcome(first) == outcome(second)


def test_same_seed_same_result_whatever_the_global_random_state(bench: Bench, finished: Path, tmp_path: Path) -> None:
    torch.manual_seed(12345)
    assert outcome(bench.run(tmp_path / "run")) == outcome(finished)


def test_loading_threads_do_not_matter(bench: Bench, tmp_path: Path) -> None:
    one = outcome(bench.run(tmp_path / "one", "--compute.loading-threads", 1))
    three = outcome(bench.run(tmp_path / "three", "--compute.loading-threads", 3))
    assert one.pop("config") != three.pop("config")
    assert one == three


@pytest.mark.parametrize("method", ["feddtl", "fedlora"])
def test_another_seed_another_result(bench: Bench, tmp_path: Path, method: str) -> None:
    """The seed reaches partition, initial adapters, order of images and noise."""
    flags = ("--method", method, "--data.shots", 3, "--rounds", 2)
    first = bench.run(tmp_path / "first", *flags)
    second = bench.run(tmp_path / "second", *flags, "--seed", 1)
    one, two = final_state(first), final_state(second)
    assert set(one) == set(two)
    trained = [name for name in one if not name.startswith("own_hits/")]  # the rest says which images were scored
    assert trained
    assert all(not torch.equal(one[name], two[name]) for name in trained)
    assert records(first) != records(second)


def test_every_round_changes_the_model(finished: Path) -> None:
    """Equal results would be no news if nothing were trained."""
    norms = [record["train"]["update_norm"] for record in records(finished)]
    assert all(norm > 0 for norm in norms)
