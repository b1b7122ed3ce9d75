"""Attacks by one client alone on the change of the weights that it sends, or on its number of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from feddtl.attacks.base import Attack, Knowledge
from feddtl.messages import Update


def scaled(update: Update, received: Mapping[str, Tensor], factor: float) -> Update:
    """w + factor · (w_k − w)."""
    weights = {name: received[name] + factor * (tensor - received[name]) for name, tensor in update.weights.items()}
    return replace(update, weights=weights)


class SignFlip(Attack):
    """The opposite of the honest change, times the scale."""

    def upload(self, update: Update, known: Knowledge) -> Update:
        """See `Attack.upload`."""
        return scaled(update, known.received, -self.scale)


class Scaling(Attack):
    """The honest change, times the scale: the client alone decides where the mean goes."""

    def upload(self, update: Update, known: Knowledge) -> Update:
        """See `Attack.upload`."""
        return scaled(update, known.received, self.scale)


class InflatedCount(Attack):
    """The opposite of the honest change with a number of images that is the scale times too large."""

    def upload(self, update: Update, known: Knowledge) -> Update:
        """See `Attack.upload`; as many images as the server believes at most."""
        claimed = max(1, round(self.scale * update.num_images))
        if known.most_images is not None:
            claimed = min(claimed, known.most_images)
        return replace(scaled(update, known.received, -1.0), num_images=claimed)
