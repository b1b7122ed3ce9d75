"""The image half of a backbone: images to projected features. It runs on the clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from feddtl.models.preprocess import Preprocessing
from feddtl.models.towers import UNCHANGED, Adapter, Beside, BlockStack, Changes


class ImageTower(ABC):
    """Images to projected features, in four steps: embed, blocks, pool, project.

    A backbone implements the abstract methods. It alone knows which of the S tokens are patches, and how to pool them.

    Args:
        stack: Its blocks.
        preprocessing: Of its images.
        name: Of the model, for readers.
        tokens: S, of an image, including those that are not patches.
        feature_width: e, of the joint space.
        architecture: Everything besides the weights that determines the output, as JSON.

    Attributes:
        device: Where it computes.
        width: d, of the hidden states.
    """

    def __init__(
        self,
        stack: BlockStack,
        preprocessing: Preprocessing,
        name: str,
        *,
        tokens: int,
        feature_width: int,
        architecture: dict[str, Any],
    ) -> None:
        self.stack = stack
        self.preprocessing = preprocessing
        self.name = name
        self.tokens = tokens
        self.feature_width = feature_width
        self.architecture = architecture
        self.device = stack.device
        self.width = stack.width

    @abstractmethod
    def prefix_digests(self, stop: int) -> dict[str, str]:
        """Hashes, by name, of the weights that determine the output of `prefix` for a block."""

    @abstractmethod
    def embed(self, pixel_values: Tensor) -> Tensor:
        """Input of block 0, (B, S, d), from (B, 3, H, W) pixel values."""

    @abstractmethod
    def with_prompts(self, hidden: Tensor, prompts: Tensor) -> Tensor:
        """Input of block 0 with n learned tokens added: (B, S, d) and (n, d) -> (B, S + n, d)."""

    @abstractmethod
    def replace_prompts(self, hidden: Tensor, prompts: Tensor) -> Tensor:
        """Input (B, S + n, d) of a later block, with other learned tokens (n, d) in place of the earlier ones."""

    @abstractmethod
    def pool(self, hidden: Tensor, first_block: int, changes: Changes = UNCHANGED) -> Tensor:
        """One vector (B, d) per image: the blocks from `first_block` on, then the pooling.

        Pooling includes the blocks because a tower that reads one token can skip all others in the last block (see
        `BlockStack.run_and_read`). A tower that reads all tokens calls `BlockStack.run`.

        Args:
            hidden: (B, S, d) input of `first_block`, which is below the number of blocks.
            first_block: First block to run.
            changes: To the blocks.
        """

    @abstractmethod
    def project(self, pooled: Tensor) -> Tensor:
        """Pooled vectors (B, d) to features (B, e), before normalisation, in the precision of the model's weights."""

    @property
    def precision(self) -> torch.dtype:
        """Precision in which the blocks compute."""
        return self.stack.precision

    @property
    def images_per_pass(self) -> int:
        """How many images to run through the blocks in one pass."""
        return self.stack.sequences_per_pass(self.tokens)

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images to (B, 3, H, W) pixel values: the model's own test transform, no augmentation."""
        return self.preprocessing(images)

    @torch.no_grad()
    def prefix(self, pixel_values: Tensor, stop: int) -> Tensor:
        """Output of the frozen blocks: (B, S, d), the input of block `stop`, from (B, 3, H, W) pixel values.

        If `stop` is the number of blocks, no block changes: (B, e), the projected features.
        """
        if len(pixel_values) > self.images_per_pass:
            parts = torch.split(pixel_values, self.images_per_pass)
            return torch.cat([self.prefix(part, stop) for part in parts])
        hidden = self.embed(pixel_values)
        # Without a backward pass the fused kernel is faster, and stored activations must not depend on a choice.
        fused = Changes(attention="sdpa")
        if stop == len(self.stack):
            return self.project(self.pool(hidden, 0, fused))
        return self.stack.run(hidden, 0, fused, stop=stop)

    def features(
        self, activations: Tensor, first_block: int, adapter: Adapter = None, beside: Beside | None = None
    ) -> Tensor:
        """Projected features (B, e), before normalisation, from the output of `prefix` for `first_block`."""
        if first_block == len(self.stack):
            return activations
        return self.project(self.pool(activations, first_block, Changes(adapter, beside)))
