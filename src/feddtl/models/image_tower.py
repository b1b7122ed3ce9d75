"""CLIP's image tower: images to projected features. It lives on the clients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import linear

from feddtl.models.digests import Digests, digests_in_memory
from feddtl.models.preprocess import Preprocessing
from feddtl.models.towers import Adapter, BlockStack, require_held


class ImageTower:
    """Images to projected features; lives on the clients.

    Args:
        model: CLIPModel of transformers, or `ClipModules`.
        preprocessing: Of its images.
        digests: Hashes of its weights; None: computed from those in memory.
        device: Where it computes; None: where its weights are.
    """

    def __init__(
        self,
        model: Any,
        preprocessing: Preprocessing,
        digests: Digests | None = None,
        device: torch.device | None = None,
    ) -> None:
        vision = model.vision_model
        self.stack = BlockStack(
            vision.encoder,
            "vision_model.encoder.layers",
            model.config.vision_config.num_attention_heads,
            causal=False,
            device=device,
        )
        self._vision = vision
        self._projection = model.visual_projection
        self.preprocessing = preprocessing
        self._digests = digests or digests_in_memory(model)
        self.name = Path(model.name_or_path).name if Path(model.name_or_path).is_dir() else str(model.name_or_path)
        self.device: torch.device = device or self._projection.weight.device

    @property
    def is_loaded(self) -> bool:
        """Whether its weights are here, and not only their shapes."""
        return not self._projection.weight.is_meta

    @property
    def precision(self) -> torch.dtype:
        """Precision in which the blocks compute."""
        return self.stack.precision

    @property
    def width(self) -> int:
        """d: width of the hidden states."""
        return int(self._projection.in_features)

    @property
    def feature_width(self) -> int:
        """e: width of the joint space."""
        return int(self._projection.out_features)

    @property
    def tokens(self) -> int:
        """S: the class token and the patches."""
        return int(self._vision.embeddings.num_positions)

    @property
    def images_per_pass(self) -> int:
        """Images that one pass through the blocks should hold."""
        return self.stack.sequences_per_pass(self.tokens)

    @property
    def architecture(self) -> dict[str, Any]:
        """What beside the weights decides the output: attention heads, activation function, norms' epsilon."""
        config = self._vision.config
        return {key: getattr(config, key) for key in ("num_attention_heads", "hidden_act", "layer_norm_eps")}

    def prefix_digests(self, stop: int) -> dict[str, str]:
        """Hashes of the weights that decide what `prefix` gives for a block, by name."""
        vision = self._vision
        # Name here: (name in CLIPModel, module).
        parts: dict[str, tuple[str, Any]] = {
            part: (f"vision_model.{part}", getattr(vision, part)) for part in ("embeddings", "pre_layrnorm")
        }
        blocks = self.stack.blocks
        parts |= {f"blocks.{index}": (f"{self.stack.prefix}.{index}", blocks[index]) for index in range(stop)}
        if stop == len(self.stack):
            parts["post_layernorm"] = ("vision_model.post_layernorm", vision.post_layernorm)
            parts["projection"] = ("visual_projection", self._projection)
        names = {
            f"{part}.{name}": f"{theirs}.{name}"
            for part, (theirs, module) in parts.items()
            for name in module.state_dict()
        }
        digests = self._digests(names.values())
        return {name: digests[theirs] for name, theirs in names.items()}

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images to (B, 3, H, W) pixel values: the model's own test transform, no augmentation."""
        return self.preprocessing(images)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Input of block 0, (B, S, d): class token first, then the patches.

        The patches do not overlap, so their convolution is one product of matrices.
        """
        embeddings = self._vision.embeddings
        require_held(embeddings.class_embedding, "the image tower")
        weight = embeddings.patch_embedding.weight  # (d, 3, p, p)
        side = weight.shape[-1]
        batch, channels, height, width = pixel_values.shape
        cut = pixel_values.to(self.precision).view(batch, channels, height // side, side, width // side, side)
        patches = linear(cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2), weight.flatten(1).to(self.precision))
        first = embeddings.class_embedding.expand(batch, 1, -1)
        positions = embeddings.position_embedding.weight
        hidden: Tensor = self._vision.pre_layrnorm(torch.cat([first, patches.to(first.dtype)], dim=1) + positions)
        return hidden

    def embed_prompts(self, prompts: Tensor) -> Tensor:
        """Learned tokens (n, d) as the input of block 0: they pass the norm behind the embeddings, as patches do."""
        normed: Tensor = self._vision.pre_layrnorm(prompts)
        return normed

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
            return self.project(self.stack.run_to_rows(hidden, 0, class_tokens(hidden), attention="sdpa"))
        return self.stack.run(hidden, 0, stop=stop, attention="sdpa")

    def features(self, activations: Tensor, first_block: int, adapter: Adapter = None) -> Tensor:
        """Projected class token (B, e), before normalisation, from what `prefix` gives for `first_block`."""
        if first_block == len(self.stack):
            return activations
        return self.project(self.stack.run_to_rows(activations, first_block, class_tokens(activations), adapter))

    def project(self, token: Tensor) -> Tensor:
        """Class token (B, d) after the last block to features (B, e), in the precision of the model's weights."""
        require_held(self._projection.weight, "the image tower")
        token = token.to(self._projection.weight.dtype)
        projected: Tensor = self._projection(self._vision.post_layernorm(token))
        return projected


def class_tokens(hidden: Tensor) -> Tensor:
    """(B,) position of the class token in images (B, S, d)."""
    return torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
