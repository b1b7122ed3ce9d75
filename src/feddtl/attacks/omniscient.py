"""Attacks by clients that know what the honest ones of the round send, and agree on one update of the same look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from feddtl.attacks.base import Attack, Knowledge
from feddtl.messages import Update

# From the honest clients' tensors of one name (K, …) and the one that was received to the one that is sent.
Forge = Callable[[Tensor, Tensor], Tensor]


class ALittleIsEnough(Attack):
    """μ − z·σ of every coordinate of the honest updates (Baruch, Baruch and Goldberg, NeurIPS 2019); z is the scale.

    The paper derives z from the numbers of clients; that is 0 for 2 of 10, so a fixed one is the default.
    """

    def upload(self, update: Update, known: Knowledge) -> Update:
        """See `Attack.upload`."""
        return _forged(
            update, known, lambda honest, _: honest.mean(dim=0) - self.scale * honest.std(dim=0, correction=0)
        )


class InnerProductManipulation(Attack):
    """−ε times the mean of the honest changes (Xie, Koyejo and Gupta, UAI 2019); ε is the scale."""

    def upload(self, update: Update, known: Knowledge) -> Update:
        """See `Attack.upload`."""
        return _forged(update, known, lambda honest, start: start - self.scale * (honest.mean(dim=0) - start))


def _forged(update: Update, known: Knowledge, forge: Forge) -> Update:
    """The update with forged weights; unchanged where there are no honest ones to know."""
    if not known.honest:
        return update
    weights = {
        name: forge(torch.stack([other.weights[name] for other in known.honest]).double(), start.double()).to(
            start.dtype
        )
        for name, start in known.received.items()
    }
    return replace(update, weights=weights)
