"""predictions.safetensors: what is written is read, damage is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from feddtl.errors import RunError
from feddtl.evaluate import ClientHits, Predictions
from feddtl.predictions import ImagePredictions, read_predictions, write_predictions


def predictions(*, trained: bool = True) -> ImagePredictions:
    """Three base images of two clients and a novel one; zero-shot is wrong twice, the final model once."""
    before = Predictions(torch.tensor([0, 0, 1, 3]), torch.tensor([0, 2, 1, 3]))
    after = Predictions(torch.tensor([0, 1, 1, 3]), torch.tensor([0, 1, 1, 0])) if trained else before
    own = ClientHits(torch.tensor([1, 0, 1, -1]), torch.tensor([2, 0, 1, 2]), torch.full((4,), 2)) if trained else None
    return ImagePredictions(
        torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1]), torch.tensor([1, 0, 0, -1]), before, after, own
    )


def columns(found: ImagePredictions) -> list[list[int]]:
    tensors = (found.labels, found.domains, found.owners, *vars(found.zero_shot).values(), *vars(found.final).values())
    own = vars(found.own_hits).values() if found.own_hits else ()
    return [tensor.tolist() for tensor in (*tensors, *own)]


@pytest.mark.parametrize("trained", [True, False], ids=["two models", "one model twice"])
def test_what_is_written_is_read(tmp_path: Path, trained: bool) -> None:
    write_predictions(tmp_path / "file", predictions(trained=trained))
    assert columns(read_predictions(tmp_path / "file")) == columns(predictions(trained=trained))


def test_same_predictions_same_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_predictions(tmp_path / name, predictions())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    # Four bytes for each of ten columns of four images, and the header.
    assert {tensor.dtype for tensor in load_file(tmp_path / "one").values()} == {torch.int32}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def drop_a_column(path: Path) -> None:
    save_file({name: tensor for name, tensor in load_file(path).items() if name != "owners"}, path)


def shorten_a_column(path: Path) -> None:
    tensors = load_file(path)
    save_file({**tensors, "labels": tensors["labels"][:-1].clone()}, path)


@pytest.mark.parametrize("damage", [cut, drop_a_column, shorten_a_column])
def test_a_damaged_file_is_named(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    write_predictions(tmp_path / "file", predictions())
    damage(tmp_path / "file")
    with pytest.raises(RunError, match=r"file is damaged") as caught:
        read_predictions(tmp_path / "file")
    assert "Delete it" in caught.value.hint
