"""PromptFL: learned context vectors in front of the class name (Guo et al., IEEE TMC 2023, arXiv 2208.11625).

The prompt is `[start] v_1 … v_n {class}. [end]` with one set of vectors v for all classes; they are the only thing that
is trained and sent. Both towers stay frozen, so a client keeps the final features of its images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from feddtl.methods.base import Method
from feddtl.methods.promptfl.settings import PromptFLSettings
from feddtl.models.lora import Tensors
from feddtl.models.text_tower import TextTower, prompts_for
from feddtl.seeding import torch_generator

CONTEXT = "context"
# What follows the context vectors.
NAME_PROMPT = "{class}."


class PromptFL(Method):
    """Federated averaging of a text prompt."""

    Settings = PromptFLSettings
    settings: PromptFLSettings

    def initial_shared(self) -> Tensors:
        """v ~ N(0, σ²), (n, d)."""
        config = self.settings
        generator = torch_generator(self.task.seed, "promptfl")
        context = torch.randn(config.context_length, self.clip.text.width, generator=generator)
        return {CONTEXT: config.init_std * context}

    def text_features(self, tensors: Mapping[str, Tensor], class_names: Sequence[str]) -> Tensor:
        """Projected features (C, e) of the names behind the context."""
        return prompted_features(self.clip.text, tensors[CONTEXT], class_names)


def prompted_features(tower: TextTower, context: Tensor, class_names: Sequence[str]) -> Tensor:
    """Projected features (C, e) of `[start] context {class}. [end]`, with context vectors (n, d)."""
    hidden, positions = tower.with_context(prompts_for(class_names, NAME_PROMPT), context)
    return tower.features(hidden, positions, 0)
