"""Validation images of each client, not used for training; a learned selector gets its rewards from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from feddtl.errors import DataError
from feddtl.methods.classifier import Classifier
from feddtl.seeding import torch_generator
from feddtl.system.selection import Visit
from feddtl.training.client_data import ClientData
from feddtl.units import NUMBERED, ClientNames


@dataclass(frozen=True)
class Validation:
    """Every client's validation images.

    Attributes:
        clients: The images by client id.
        class_names: The base classes, in label order.
        logit_scale: s, which scales cosines to logits.
    """

    clients: tuple[ClientData, ...]
    class_names: tuple[str, ...]
    logit_scale: float

    @torch.no_grad()
    def visits(self, received: Classifier, own: dict[int, Classifier]) -> dict[int, Visit]:
        """Each client's measurements of the received model and of its own.

        Args:
            received: The broadcast model.
            own: Each client's model after training.
        """
        received_text = received.text_embeddings(self.class_names)
        found = {}
        for client, classifier in own.items():
            data = self.clients[client]
            before = self._measure(received, received_text, data)
            after = self._measure(classifier, classifier.text_embeddings(self.class_names), data)
            found[client] = Visit(*before, *after, len(data))
        return found

    def _measure(self, classifier: Classifier, text: Tensor, data: ClientData) -> tuple[float, float]:
        """Accuracy and mean cross-entropy on the first view of a client's images."""
        hits, loss = 0, 0.0
        for positions in torch.split(torch.arange(len(data)), classifier.images_per_pass):
            features = classifier.image_features(data.activations.rows(positions * data.views).to(text.device))
            logits, labels = self.logit_scale * features @ text.T, data.labels[positions].to(text.device)
            hits += int((logits.argmax(dim=-1) == labels).sum())
            loss += float(cross_entropy(logits, labels, reduction="sum"))
        return hits / len(data), loss / len(data)


def split_off_validation(
    clients: Sequence[ClientData], share: float, seed: int, names: ClientNames = NUMBERED
) -> tuple[tuple[ClientData, ...], tuple[ClientData, ...]]:
    """Training and validation images: a seeded share of each client's images, at least one, becomes validation images.

    Raises:
        DataError: A client has only one image.
    """
    pairs = [
        _split_off(data, share, torch_generator(seed, "validation", data.client), names.begin(data.client))
        for data in clients
    ]
    return tuple(train for train, _ in pairs), tuple(validation for _, validation in pairs)


def _split_off(data: ClientData, share: float, generator: torch.Generator, name: str) -> tuple[ClientData, ClientData]:
    if len(data) < 2:
        raise DataError(
            f"{name} has {len(data)} training image, but system.selection = 'fedppo' needs at least "
            "one for validation and one for training.",
            "Use fewer clients, more images, a larger data.min_images, or system.selection = 'uniform'.",
        )
    order = torch.randperm(len(data), generator=generator)
    count = min(len(data) - 1, max(1, round(share * len(data))))
    return data.select(order[count:].sort().values), data.select(order[:count].sort().values)
