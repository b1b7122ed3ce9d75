"""The SFT stage: cross-entropy (FedDTL §3)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from feddtl.training.objective import Objective
from feddtl.training.policy import Microbatch


class Supervised(Objective):
    """Cross-entropy."""

    def losses(self, microbatch: Microbatch, features: Tensor, text: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """-log π(y|x)."""
        logits = self.policy.logits(features, text, microbatch)
        labels = self.policy.labels[microbatch.rows.to(logits.device, non_blocking=True)]
        hits = (logits.detach().argmax(dim=-1) == labels).to(logits.dtype)
        return cross_entropy(logits, labels, reduction="none"), {"accuracy": hits}
