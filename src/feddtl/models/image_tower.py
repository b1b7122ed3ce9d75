"""The image half of a backbone: images to projected features. It lives on the clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from feddtl.models.kernels import AttentionKernel
from feddtl.models.preprocess import Preprocessing
from feddtl.models.towers import Adapter, Beside, BlockStack


class ImageTower(ABC):
    """Images to projected features, in four steps: embed, blocks, pool, project.

    A backbone implements the abstract methods. Which of the S tokens stand for patches, and how they become one vector,
    is known to it alone.

    Args:
        stack: Its blocks.
        preprocessing: Of its images.
        name: Of the model, for readers.
        device: Where it computes.
    """

    def __init__(self, stack: BlockStack, preprocessing: Preprocessing, name: str, device: torch.device) -> None:
        self.stack = stack
        self.preprocessing = preprocessing
        self.name = name
        self.device = device

    @property
    @abstractmethod
    def is_loaded(self) -> bool:
        """Whether its weights are here, and not only their shapes."""

    @property
    @abstractmethod
    def width(self) -> int:
        """d: width of the hidden states."""

    @property
    @abstractmethod
    def feature_width(self) -> int:
        """e: width of the joint space."""

    @property
    @abstractmethod
    def tokens(self) -> int:
        """S: tokens of an image, those included that are no patch."""

    @property
    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """What beside the weights decides the output, as JSON."""

    @abstractmethod
    def prefix_digests(self, stop: int) -> dict[str, str]:
        """Hashes of the weights that decide what `prefix` gives for a block, by name."""

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
    def pool(
        self,
        hidden: Tensor,
        first_block: int,
        adapter: Adapter = None,
        *,
        beside: Beside | None = None,
        attention: AttentionKernel | None = None,
    ) -> Tensor:
        """One vector (B, d) an image: the blocks from `first_block` on, then the pooling.

        The blocks belong to it because a tower that reads one token can spare the last block all others, see
        `BlockStack.run_to_rows`; a tower that reads all of them calls `BlockStack.run`.

        Args:
            hidden: (B, S, d) input of `first_block`, which is below the number of blocks.
            first_block: First block to run.
            adapter: Adapters of its layers.
            beside: What is added to the output of each block.
            attention: Taken in place of the chosen kernel.
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
        """Images that one pass through the blocks should hold."""
        return self.stack.sequences_per_pass(self.tokens)

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images to (B, 3, H, W) pixel values: the model's own test transform, no augmentation."""
        return self.preprocessing(images)

    @torch.no_grad()
    def prefix(self, pixel_values: Tensor, stop: int) -> Tensor:
        """What never changes of an image: (B, S, d), the input of block `stop`, from (B, 3, H, W) pixel values.

        Where `stop` is the number of blocks, nothing changes at all: (B, e), the projected features.
        """
        if len(pixel_values) > self.images_per_pass:
            parts = torch.split(pixel_values, self.images_per_pass)
            return torch.cat([self.prefix(part, stop) for part in parts])
        hidden = self.embed(pixel_values)
        # Without a backward pass the fused kernel is the faster one, and what is kept depends on no choice.
        if stop == len(self.stack):
            return self.project(self.pool(hidden, 0, attention="sdpa"))
        return self.stack.run(hidden, 0, stop=stop, attention="sdpa")

    def features(
        self, activations: Tensor, first_block: int, adapter: Adapter = None, beside: Beside | None = None
    ) -> Tensor:
        """Projected features (B, e), before normalisation, from what `prefix` gives for `first_block`."""
        if first_block == len(self.stack):
            return activations
        return self.project(self.pool(activations, first_block, adapter, beside=beside))
