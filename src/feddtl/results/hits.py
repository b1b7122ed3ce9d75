"""Which test images the models of a run classify correctly, as small arrays; compact text of them for JSON."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from feddtl.errors import RunError

if TYPE_CHECKING:
    from feddtl.predictions import ImagePredictions

Counts = np.ndarray[tuple[int], np.dtype[np.int64]]
DIGEST_BYTES = 6


@dataclass(frozen=True, eq=False)
class ModelHits:
    """Hits of one model, or of several whose mean counts, on the same test images.

    Attributes:
        images: Names the scored images and their order: hits of a seed are paired only where it is equal.
        base: (N_b,) number of models that are right on each base image.
        novel: (N_n,) the same for the novel images.
        models: How many models the counts are of.
        owners: (N_b,) the client whose model is scored on the image; -1 for none. None if there is no local accuracy.
        local: (N_b,) 1 if that model is right, else 0.
    """

    images: str
    base: Counts
    novel: Counts
    models: int = 1
    owners: Counts | None = None
    local: Counts | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Numbers of base and novel images."""
        return len(self.base), len(self.novel)


@dataclass(frozen=True, eq=False)
class RunHits:
    """Hits of the models of a run on its N test images: the base images, then the novel ones.

    Attributes:
        images: Digest of their number, labels and domains, in order.
        base_images: Number of base images.
        owners: (N,) client whose share contains the base image; -1 for none.
        zero_shot: (N,) 1 if the model before training is right, else 0.
        final: (N,) the same for the global model after the last round.
        local: (N,) 1 or 0 for the owner's own model; -1 if it was not scored. None if it is not known by image.
        clients_right: (N,) number of clients whose own models are right; None if it is not known by image.
        clients_scored: Number of clients whose own models were scored on all images.
    """

    images: str
    base_images: int
    owners: Counts
    zero_shot: Counts
    final: Counts
    local: Counts | None = None
    clients_right: Counts | None = None
    clients_scored: int = 0

    @property
    def before_training(self) -> ModelHits:
        """Hits of the model before training, which is every client's own model too."""
        owners, hits = self.owners[: self.base_images], self.zero_shot[: self.base_images]
        return ModelHits(self.images, hits, self.zero_shot[self.base_images :], 1, owners, hits)

    @property
    def after_training(self) -> ModelHits:
        """Hits of the global model, and of each client's own model on its share."""
        base, novel = self.final[: self.base_images], self.final[self.base_images :]
        if self.local is None:
            return ModelHits(self.images, base, novel)
        local = self.local[: self.base_images]
        owners = np.where(local >= 0, self.owners[: self.base_images], -1)
        return ModelHits(self.images, base, novel, 1, owners, np.maximum(local, 0))

    @property
    def client_models(self) -> ModelHits | None:
        """Hits of the clients' own models on all images; None if they were not scored."""
        if self.clients_right is None or not self.clients_scored:
            return None
        base, novel = self.clients_right[: self.base_images], self.clients_right[self.base_images :]
        return ModelHits(self.images, base, novel, self.clients_scored)

    def to_dict(self, texts: dict[str, str]) -> dict[str, Any]:
        """For JSON; columns are added to `texts` by a digest, so that those that runs share are stored once."""
        columns = {name: column for name, column in vars(self).items() if isinstance(column, np.ndarray)}
        packed = {name: pack(column) for name, column in columns.items()}
        names = {name: _digest(text.encode()) for name, text in packed.items()}
        texts.update({names[name]: text for name, text in packed.items()})
        numbers = {"images": self.images, "base_images": self.base_images, "clients_scored": self.clients_scored}
        return numbers | names

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], texts: Mapping[str, str]) -> RunHits:
        """What `to_dict` gave. Raises RunError for anything else."""
        try:
            columns = ("owners", "zero_shot", "final", "local", "clients_right")
            found = {name: unpack(texts[values[name]]) for name in columns if name in values}
            if len({len(column) for column in found.values()}) != 1:
                raise ValueError("its columns have different lengths")
            numbers = {name: int(values[name]) for name in ("base_images", "clients_scored")}
            return cls(images=str(values["images"]), **numbers, **found)  # type: ignore[arg-type]
        except (KeyError, ValueError, TypeError, zlib.error) as error:
            raise RunError(
                f"The hits of a record are damaged: {error}.",
                "Write the file again: repeat the command `feddtl compare`, which only reads finished runs.",
            ) from None


def run_hits(predictions: ImagePredictions, base_classes: int, *, trains: bool) -> RunHits:
    """The hits of a run with these predictions.

    Args:
        predictions: For every test image.
        base_classes: Number of base classes, whose labels come first.
        trains: Whether the run trains; the clients' models of one that does not are the global model.
    """
    labels, domains, owners = (
        column.numpy() for column in (predictions.labels, predictions.domains, predictions.owners)
    )
    final, own = predictions.final_hits.numpy().astype(np.int64), predictions.own_hits
    base_images = int((labels < base_classes).sum())
    content = b"".join(np.ascontiguousarray(column, dtype="<i4").tobytes() for column in (labels, domains))
    local = None if trains else np.where(owners >= 0, final, -1)
    return RunHits(
        _digest(content),
        base_images,
        owners,
        predictions.zero_shot_hits.numpy().astype(np.int64),
        final,
        own.local.numpy() if own else local,
        own.right.numpy() if own else None,
        int(own.scored.max()) if own and len(own.scored) else 0,
    )


def pack(values: Counts) -> str:
    """Whole numbers of a small range as text: how many, the smallest, the bits of each, and the compressed bits."""
    smallest = int(values.min(initial=0))
    shifted = values - smallest
    bits = max(1, int(shifted.max(initial=0)).bit_length())
    planes = np.packbits((shifted[None] >> np.arange(bits)[:, None]) & 1, axis=1)
    coded = base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode()
    return f"{len(values)}:{smallest}:{bits}:{coded}"


def unpack(text: str) -> Counts:
    """What `pack` gave. Raises ValueError or zlib.error for anything else."""
    count, smallest, bits, coded = text.split(":")
    packed = np.frombuffer(zlib.decompress(base64.b64decode(coded, validate=True)), np.uint8)
    rows = packed.reshape(int(bits), (int(count) + 7) // 8)
    planes = np.unpackbits(rows, axis=1, count=int(count)).astype(np.int64)
    values: Counts = (planes << np.arange(int(bits))[:, None]).sum(axis=0) + int(smallest)
    return values


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()
