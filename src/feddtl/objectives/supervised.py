"""Cross-entropy of CLIP's cosine logits (Radford et al. 2021; FedDTL §3, SFT stage)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def clip_logits(features: Tensor, text_embeddings: Tensor, logit_scale: float) -> Tensor:
    """s · ẑ_v · Tᵀ.

    Args:
        features: (..., e) image features, not normalised.
        text_embeddings: (C, e) unit rows T.
        logit_scale: s = 1/τ.

    Returns:
        (..., C) logits.
    """
    return logit_scale * normalize(features, dim=-1) @ text_embeddings.T


def supervised_loss(features: Tensor, text_embeddings: Tensor, labels: Tensor, logit_scale: float) -> Tensor:
    """Mean cross-entropy over a batch: features (B, e), text_embeddings (C, e) unit rows, labels (B,)."""
    return cross_entropy(clip_logits(features, text_embeddings, logit_scale), labels)
