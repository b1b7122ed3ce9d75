"""FedCLIP: a gate on the image features (Lu et al., IEEE Data Eng. Bull. 2023, arXiv 2302.13485).

z ← z ⊙ softmax(W_2 tanh(W_1 z + b_1) + b_2). Both towers stay frozen and only the gate is trained and sent. The paper's
loss is contrastive within a batch; here it is cross-entropy over all base classes unless `fedclip.loss` says otherwise,
so that methods differ in what they train and not in the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from feddtl.methods.averaging import FederatedAveraging
from feddtl.methods.linear_layers import initial_linear
from feddtl.methods.lora_clip import frozen_text
from feddtl.models.lora import Tensors
from feddtl.training.local import Learner
from feddtl.training.objective import Objective
from feddtl.training.policy import Piece, Policy
from feddtl.training.stages import Supervised


class FedCLIP(FederatedAveraging):
    """Federated averaging of a gate on frozen image features."""

    def initial_shared(self) -> Tensors:
        """Two linear layers (e, e), as PyTorch initialises them."""
        width = self.clip.image.feature_width
        return {
            **initial_linear("gate.first", width, width, self.task.seed),
            **initial_linear("gate.second", width, width, self.task.seed),
        }

    def image_features(self, tensors: Mapping[str, Tensor], activations: Tensor) -> Tensor:
        """Gated features (B, e), from the final features of the frozen tower."""
        features = activations.to(tensors["gate.first.weight"].dtype)
        hidden = linear(features, tensors["gate.first.weight"], tensors["gate.first.bias"]).tanh()
        return features * linear(hidden, tensors["gate.second.weight"], tensors["gate.second.bias"]).softmax(dim=-1)

    def text_features(self, tensors: Mapping[str, Tensor], class_names: Sequence[str]) -> Tensor:
        """Of the frozen tower, (C, e)."""
        features, _ = frozen_text(self.clip, class_names, self.task.prompt_template, len(self.clip.text.stack))
        return features

    def objective(self, policy: Policy, learner: Learner) -> Objective:
        """Cross-entropy over all base classes, or contrastive within the batch."""
        if self.experiment.fedclip.loss == "contrastive":
            return ContrastiveInBatch(policy, [learner])
        return Supervised(policy, [learner])


class ContrastiveInBatch(Objective):
    """CLIP's loss (Radford et al. 2021): each image against the texts of the whole batch, and each text against its
    images. Two images of one class count as a negative pair, as in FedCLIP.

    A piece must hold a whole batch; with final features it does."""

    def losses(self, piece: Piece, features: Tensor, text: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(-log p(text_i|image_i) - log p(image_i|text_i)) / 2."""
        labels = self.policy.labels[piece.rows.to(features.device, non_blocking=True)]
        logits = self.policy.logits(features, text, piece)  # (B, C)
        paired = logits[:, labels]  # (B, B): image i, text of image j
        own = torch.arange(len(labels), device=labels.device)
        both = [cross_entropy(scores, own, reduction="none") for scores in (paired, paired.T)]
        hits = (logits.detach().argmax(dim=-1) == labels).to(logits.dtype)
        return (both[0] + both[1]) / 2, {"accuracy": hits}
