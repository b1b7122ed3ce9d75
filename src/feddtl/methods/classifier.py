"""A model that classifies: what a method makes of its tensors and the two towers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True)
class Classifier:
    """Images or class names in, unit embeddings out; logits are s times their cosines.

    Attributes:
        images_per_pass: Images that one call of `image_features` should take.
        encode_images: Activations at the method's first changing image block, (B, S, d), -> (B, e) projected features.
        encode_texts: Class names -> (C, e) projected features.
    """

    images_per_pass: int
    encode_images: Callable[[Tensor], Tensor]
    encode_texts: Callable[[Sequence[str]], Tensor]

    @torch.no_grad()
    def image_features(self, activations: Tensor) -> Tensor:
        """Unit image embeddings (B, e)."""
        return normalize(self.encode_images(activations), dim=-1)

    @torch.no_grad()
    def text_embeddings(self, class_names: Sequence[str]) -> Tensor:
        """Unit text embeddings (C, e)."""
        return normalize(self.encode_texts(class_names), dim=-1)
