"""FedCLIP: a gate on the image features (Lu et al., IEEE Data Eng. Bull. 2023, arXiv 2302.13485).

z ← z ⊙ softmax(W_2 tanh(W_1 z + b_1) + b_2). Both towers stay frozen and only the gate is trained and sent, with Adam.

The paper has a contrastive loss within a batch and the prompt "a picture of a {class}". Here the loss is cross-entropy
over all base classes and the prompt that of the data set, unless `fedclip.loss` and `fedclip.prompt` say otherwise:
methods then differ only in what they train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from feddtl.config import TrainingSettings
from feddtl.methods.base import Method
from feddtl.methods.fedclip.settings import FedCLIPSettings
from feddtl.methods.linear_layers import initial_linear
from feddtl.methods.task import Task
from feddtl.models.lora import Tensors
from feddtl.models.text_tower import mean_over_templates, prompts_for
from feddtl.training.local import Learner
from feddtl.training.objective import Objective, Supervised
from feddtl.training.policy import Microbatch, Policy


class FedCLIP(Method):
    """Federated averaging of a gate on frozen image features."""

    Settings = FedCLIPSettings
    settings: FedCLIPSettings
    own_optimizer: ClassVar[Literal["adam", "sgd"]] = "adam"

    def __init__(self, task: Task, settings: Any, training: TrainingSettings) -> None:
        super().__init__(task, settings, training)
        self.batches_clients = settings.loss != "contrastive"  # its loss pairs all images of a step

    def initial_shared(self) -> Tensors:
        """Two linear layers (e, e), as PyTorch initialises them."""
        width = self.clip.image.feature_width
        return {
            **initial_linear("gate.first", width, width, self.task.seed),
            **initial_linear("gate.second", width, width, self.task.seed),
        }

    @property
    def prompt(self) -> str:
        """`fedclip.prompt` if it is set."""
        return self.settings.prompt or super().prompt

    def with_prompt(self, prompt: str) -> Self:
        """See `Method.with_prompt`."""
        task = replace(self.task, prompt_template=prompt)
        return type(self)(task, replace(self.settings, prompt=""), self.training)

    def image_features(self, tensors: Mapping[str, Tensor], activations: Tensor) -> Tensor:
        """Gated features (B, e), from the final features of the frozen tower."""
        features = activations.to(tensors["gate.first.weight"].dtype)
        hidden = linear(features, tensors["gate.first.weight"], tensors["gate.first.bias"]).tanh()
        return features * linear(hidden, tensors["gate.second.weight"], tensors["gate.second.bias"]).softmax(dim=-1)

    def text_features(self, tensors: Mapping[str, Tensor], class_names: Sequence[str]) -> Tensor:
        """Projected features (C, e) of the frozen tower."""
        prompts = tuple(prompts_for(class_names, self.prompt))
        features, _ = self.clip.text.prefix(prompts, len(self.clip.text.stack))
        return mean_over_templates(features, len(class_names))

    def supervised_objective(self, policy: Policy, learners: Sequence[Learner]) -> Objective:
        """Cross-entropy over all base classes, or contrastive within the batch."""
        if self.settings.loss == "contrastive":
            return ContrastiveInBatch(policy, learners)
        return Supervised(policy, learners)


class ContrastiveInBatch(Objective):
    """CLIP's loss (Radford et al. 2021): each image against the texts of the whole batch, and each text against its
    images. Two images of one class count as a negative pair, as in FedCLIP.

    A microbatch must hold a whole batch; with final features it does."""

    def losses(self, microbatch: Microbatch, features: Tensor, text: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(-log p(text_i|image_i) - log p(image_i|text_i)) / 2."""
        labels = self.policy.labels_of(microbatch)
        logits = self.policy.logits(features, text, microbatch)  # (B, C)
        paired = logits[:, labels]  # (B, B): image i, text of image j
        own = torch.arange(len(labels), device=labels.device)
        both = [cross_entropy(scores, own, reduction="none") for scores in (paired, paired.T)]
        hits = (logits.detach().argmax(dim=-1) == labels).to(logits.dtype)
        return (both[0] + both[1]) / 2, {"accuracy": hits}
