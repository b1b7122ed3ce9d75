"""Loss, optimiser and learning rate of contrastive training with class names as captions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from transformers import CLIPModel

MAX_LOGIT_SCALE = math.log(100)


def contrastive_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of image-to-text and text-to-image cross entropy.

    Args:
        logits: (N, C) scaled similarity of every image to one caption per class.
        labels: (N,) class ids; a caption matches all images of its class, with equal weights.
    """
    right = functional.one_hot(labels, logits.shape[1]).float()
    per_class = right.sum(0)
    shares = (right / per_class.clamp(min=1)).t()
    by_text = -(shares * logits.t().log_softmax(-1)).sum(-1)
    return (functional.cross_entropy(logits, labels) + by_text[per_class > 0].mean()) / 2


def rate_factor(step: int, steps: int, longest_warmup: int) -> float:
    """Linear warm-up over a tenth of the steps, at most `longest_warmup`, then half a cosine to zero."""
    warmup = min(longest_warmup, steps // 10 + 1)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def build_optimizer(
    model: CLIPModel, steps: int, *, peak_rate: float, longest_warmup: int
) -> tuple[torch.optim.AdamW, LambdaLR]:
    """AdamW with weight decay only on matrices, and its schedule over the steps."""
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak_rate, betas=(0.9, 0.98))
    return optimizer, LambdaLR(optimizer, lambda step: rate_factor(step, steps, longest_warmup))


def descend(model: CLIPModel, loss: Tensor, optimizer: torch.optim.AdamW, schedule: LambdaLR) -> None:
    """One update of the weights, with gradients of norm 1 at most and CLIP's bound on the logit scale."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    model.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)


@torch.no_grad()
def calibrate_projection(model: CLIPModel, pixel_values: Tensor) -> None:
    """Scale the image projection so that FedDTL's noise of σ = 0.1 moves the logits as in ViT-B/16.

    The scale of a projected feature z is free, because CLIP normalises it. Noise of standard deviation σ on z
    moves a logit by about σ·s/‖z‖: about 1 for ViT-B/16 (‖z‖ ≈ 10, s = 100). ‖z‖ = s/10 has the same effect here.

    Args:
        model: Changed in place; its predictions are not.
        pixel_values: (N, 3, H, W) normalised images over whose features the norm is averaged.
    """
    model.eval()  # type: ignore[no-untyped-call]
    features = model.get_image_features(pixel_values=pixel_values).pooler_output
    model.visual_projection.weight *= model.logit_scale.exp() / 10 / features.norm(dim=-1).mean()
