"""Attacks on uploaded embeddings and their labels; the weights are honest, so no aggregator of weights sees them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn.functional import normalize

from feddtl.attacks.base import Attack, Knowledge
from feddtl.attacks.labels import flipped
from feddtl.messages import Update


class UploadFlip(Attack):
    """Honest embeddings with flipped labels."""

    def upload(self, update: Update, known: Knowledge) -> Update:
        """See `Attack.upload`."""
        return _with_samples(update, labels=flipped(update.samples["labels"], known.classes))


class OneClass(Attack):
    """Honest embeddings that all claim to be of class 0."""

    def upload(self, update: Update, known: Knowledge) -> Update:
        """See `Attack.upload`."""
        return _with_samples(update, labels=torch.zeros_like(update.samples["labels"]))


class RandomEmbeddings(Attack):
    """Honest labels with random unit vectors."""

    def upload(self, update: Update, known: Knowledge) -> Update:
        """See `Attack.upload`."""
        like = update.samples["embeddings"]
        drawn = torch.randn(like.shape, generator=known.generator, dtype=like.dtype)
        return _with_samples(update, embeddings=normalize(drawn, dim=-1))


def _with_samples(update: Update, **samples: torch.Tensor) -> Update:
    return replace(update, samples={**update.samples, **samples})
