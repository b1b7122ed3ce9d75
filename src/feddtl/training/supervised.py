"""The SFT stage: cross-entropy (FedDTL §3)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from feddtl.training.objective import Objective
from feddtl.training.policy import Piece


class Supervised(Objective):
    """Cross-entropy."""

    def losses(self, piece: Piece, features: Tensor, text: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """-log π(y|x)."""
        logits = self.policy.logits(features, text, piece)
        labels = self.policy.labels[piece.rows.to(logits.device, non_blocking=True)]
        hits = (logits.detach().argmax(dim=-1) == labels).to(logits.dtype)
        return cross_entropy(logits, labels, reduction="none"), {"accuracy": hits}
