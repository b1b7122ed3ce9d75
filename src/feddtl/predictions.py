"""Predictions for every test image: predictions.safetensors of a run folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from feddtl.errors import RunError
from feddtl.evaluate import ClientHits, Predictions
from feddtl.parsing import parse_table
from feddtl.storage import read_whole, write_atomic
from feddtl.tensor_groups import add_prefix, select_prefix

CHECKSUM = "sha256"  # in the header; files of earlier versions have none
COLUMNS = ("labels", "domains", "owners")


@dataclass(frozen=True)
class ImagePredictions:
    """N test images, the base ones first, in the order of the data source.

    Attributes:
        labels: (N,) positions in the base class names followed by the novel ones.
        domains: (N,) domain ids.
        owners: (N,) client whose share contains the base image; -1 for none.
        zero_shot: Predictions of the model before training.
        final: Predictions of the global model after the last round.
        own_hits: Hits of the clients' own models after the last round; None if they are not known by image.
    """

    labels: Tensor
    domains: Tensor
    owners: Tensor
    zero_shot: Predictions
    final: Predictions
    own_hits: ClientHits | None = None

    @property
    def zero_shot_hits(self) -> Tensor:
        """(N,) whether each image is classified correctly before training, among its own half."""
        return self.zero_shot.among_half == self.labels

    @property
    def final_hits(self) -> Tensor:
        """(N,) the same after the last round."""
        return self.final.among_half == self.labels


def write_predictions(path: Path, found: ImagePredictions) -> None:
    """Write all columns as int32 tensors, atomically."""
    tensors = {name: getattr(found, name) for name in COLUMNS}
    tensors |= add_prefix("zero_shot", vars(found.zero_shot)) | add_prefix("final", vars(found.final))
    tensors |= add_prefix("own_hits", vars(found.own_hits) if found.own_hits else {})
    # Copies: without training, both models are the same, and the format refuses tensors that share memory.
    columns = {name: tensor.to(torch.int32).clone() for name, tensor in tensors.items()}
    write_atomic(path, save(columns, {CHECKSUM: _checksum(columns)}))


def read_predictions(path: Path) -> ImagePredictions:
    """Read the file of `write_predictions`. Raises RunError with a remedy if it is damaged."""
    try:
        content = read_whole(path)
        found = load(content)
        if _metadata(content) not in ({}, {CHECKSUM: _checksum(found)}):
            raise ValueError("it does not match its checksum")
        tensors = {name: tensor.long() for name, tensor in found.items()}
        if len({tensor.shape for tensor in tensors.values()}) != 1:
            raise ValueError("its columns have different lengths")
        zero_shot, final = (Predictions(**select_prefix(tensors, model)) for model in ("zero_shot", "final"))
        hits = select_prefix(tensors, "own_hits")
        own_hits = ClientHits(**hits) if hits else None  # runs of an earlier version have none
        columns = {name: tensors[name] for name in COLUMNS}
        return ImagePredictions(**columns, zero_shot=zero_shot, final=final, own_hits=own_hits)
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise RunError(
            f"{path} is damaged: {error}.",
            "Delete it to continue without predictions, or start a new run with another --output.",
        ) from None


def _checksum(columns: Mapping[str, Tensor]) -> str:
    """Of the names, shapes and values of all columns."""
    found = hashlib.sha256()
    for name in sorted(columns):
        found.update(f"{name} {tuple(columns[name].shape)} {columns[name].dtype} ".encode())
        found.update(columns[name].numpy().tobytes())
    return found.hexdigest()


def _metadata(content: bytes) -> dict[str, str]:
    """The texts in the header of a safetensors file, which begins with the header's length."""
    length = int.from_bytes(content[:8], "little")
    return dict(parse_table(content[8 : 8 + length]).get("__metadata__", {}))
