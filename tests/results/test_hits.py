"""Hits of a run by hand, packed and read back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from results.made_hits import run_hits_of

from feddtl.errors import RunError
from feddtl.evaluate import ClientHits, Predictions
from feddtl.predictions import ImagePredictions
from feddtl.results.hits import RunHits, pack, run_hits, unpack


@given(st.lists(st.integers(-1, 70)))
def test_packed_is_unpacked(values: list[int]) -> None:
    assert unpack(pack(np.array(values, np.int64))).tolist() == values


def test_ten_thousand_hits_take_less_than_two_kilobytes() -> None:
    hits = (np.random.default_rng(0).random(10_000) < 0.8).astype(np.int64)
    assert len(pack(hits)) < 2000


def predictions(*, own: bool = True) -> ImagePredictions:
    """Three base images of two classes and a novel one; the final model is right on the first."""
    before = torch.tensor([0, 1, 0, 2])
    after = torch.tensor([0, 0, 0, 3])
    hits = ClientHits(torch.tensor([1, 0, -1, -1]), torch.tensor([2, 1, 0, 2]), torch.full((4,), 2)) if own else None
    return ImagePredictions(
        torch.tensor([0, 1, 1, 2]),
        torch.zeros(4, dtype=torch.long),
        torch.tensor([1, 0, 2, -1]),
        Predictions(before, before),
        Predictions(after, after),
        hits,
    )


def test_hits_by_hand() -> None:
    found = run_hits(predictions(), 2, trains=True)
    before, after, own = found.before_training, found.after_training, found.client_models
    assert own is not None
    assert (before.base.tolist(), before.novel.tolist()) == ([1, 1, 0], [1])
    assert (after.base.tolist(), after.novel.tolist()) == ([1, 0, 0], [0])
    assert (own.base.tolist(), own.novel.tolist(), own.models) == ([2, 1, 0], [2], 2)
    assert before.owners is not None
    assert before.owners.tolist() == [1, 0, 2]
    assert after.owners is not None
    assert after.local is not None
    assert (after.owners.tolist(), after.local.tolist()) == ([1, 0, -1], [1, 0, 0])
    assert before.images == after.images == own.images


def test_without_hits_of_clients_only_their_scores_are_unknown() -> None:
    found = run_hits(predictions(own=False), 2, trains=True)
    assert found.client_models is None
    assert found.after_training.local is None
    assert found.after_training.base.tolist() == [1, 0, 0]


def test_the_clients_of_a_run_that_trains_nothing_have_the_global_model() -> None:
    after = run_hits(predictions(own=False), 2, trains=False).after_training
    assert after.local is not None
    assert after.local.tolist() == [1, 0, 0]


def test_other_labels_are_other_images() -> None:
    other = predictions()
    other.labels[2] = 0
    assert run_hits(predictions(), 2, trains=True).images == run_hits(predictions(own=False), 2, trains=True).images
    assert run_hits(predictions(), 2, trains=True).images != run_hits(other, 2, trains=True).images


def columns(hits: RunHits) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(hits).items()}


@pytest.mark.parametrize("own", [True, False])
def test_what_is_written_is_read_and_what_runs_share_is_stored_once(own: bool) -> None:
    texts: dict[str, str] = {}
    first, second = run_hits(predictions(own=own), 2, trains=True), run_hits_of(50)
    records = [hits.to_dict(texts) for hits in (first, first, second)]
    assert records[0] == records[1]
    assert len(texts) == len(set(texts.values()))
    for hits, record in zip((first, first, second), records, strict=True):
        assert columns(RunHits.from_dict(record, texts)) == columns(hits)


@pytest.mark.parametrize("damage", ["missing", "cut", "not packed", "shorter"])
def test_damage_is_named(damage: str) -> None:
    texts: dict[str, str] = {}
    record = run_hits_of(50).to_dict(texts)
    name = record["final"]
    changed = {"missing": None, "cut": texts[name][:-6], "not packed": "x", "shorter": pack(np.zeros(3, np.int64))}
    texts[name] = changed[damage]  # type: ignore[assignment]
    if damage == "missing":
        del texts[name]
    with pytest.raises(RunError, match="hits of a record are damaged") as caught:
        RunHits.from_dict(record, texts)
    assert "feddtl compare" in caught.value.hint
