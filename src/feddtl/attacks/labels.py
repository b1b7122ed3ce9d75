"""Attacks on the labels that a client trains on."""

from __future__ import annotations

from torch import Tensor

from feddtl.attacks.base import Attack


def flipped(labels: Tensor, classes: int) -> Tensor:
    """y → C − 1 − y, each class for its counterpart (Fang et al., USENIX Security 2020)."""
    return classes - 1 - labels


class LabelFlip(Attack):
    """The client trains on flipped labels, and uploads what follows, labels included."""

    def labels(self, labels: Tensor, classes: int) -> Tensor:
        """See `Attack.labels`."""
        return flipped(labels, classes)
