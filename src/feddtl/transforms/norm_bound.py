"""A bound on the distance of an update from the broadcast."""

from __future__ import annotations

from dataclasses import replace

from feddtl.messages import Update
from feddtl.tensor_groups import update_norm
from feddtl.transforms.base import Exchange, RejectedUpdateError, Transform

# Rounding, also by later transforms such as float16, may add this share to a norm that was scaled to the bound.
TOLERANCE = 1e-3


class NormBound(Transform):
    """‖w_k − w‖₂ ≤ `uplink.max_update_norm`: a client scales a larger change down, the server rejects it."""

    def encode(self, update: Update, exchange: Exchange) -> Update:
        """w + (w_k − w) · min(1, bound / ‖w_k − w‖₂)."""
        norm, bound = update_norm(update.weights, exchange.received), self.config.max_update_norm
        # A norm that is not finite is left to the check that names the client and its tensor.
        if not bound < norm < float("inf"):
            return update
        received = exchange.received
        scaled = {name: received[name] + (w - received[name]) * (bound / norm) for name, w in update.weights.items()}
        return replace(update, weights=scaled)

    def decode(self, update: Update, exchange: Exchange) -> Update:
        """The update unchanged, if it is within the bound."""
        norm, bound = update_norm(update.weights, exchange.received), self.config.max_update_norm
        if not norm <= bound * (1 + TOLERANCE):
            raise RejectedUpdateError(
                f"The weights are {norm:.4g} away from what was broadcast; uplink.max_update_norm = {bound:g}."
            )
        return update
