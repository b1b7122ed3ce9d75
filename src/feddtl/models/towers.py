"""CLIP's two towers, walked block by block on the weights of Hugging Face's CLIPModel.

Walking by hand is what lets frozen blocks run once, adapters be plain tensors, and the last block compute
the one token that is read. Tests hold both towers to transformers' own forward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from feddtl.errors import ConfigError
from feddtl.models.lora import Lora, adapted_linear

ATTENTION_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj")


class BlockStack:
    """The transformer blocks of one tower.

    Args:
        encoder: `CLIPModel.vision_model.encoder` or `CLIPModel.text_model.encoder`.
        prefix: Name of that encoder's blocks in CLIPModel's state dict, without a trailing dot.
        heads: Attention heads.
        causal: Whether a token attends to earlier tokens only (the text tower).
    """

    def __init__(self, encoder: Any, prefix: str, heads: int, *, causal: bool) -> None:
        self.blocks: nn.ModuleList = encoder.layers
        self.prefix = prefix
        self.heads = heads
        self.causal = causal

    def __len__(self) -> int:
        return len(self.blocks)

    def resolve(self, first_block: int, key: str) -> int:
        """Index from 0 of a block given from either end. Raises ConfigError naming the key."""
        index = first_block + len(self) if first_block < 0 else first_block
        if not 0 <= index < len(self):
            raise ConfigError(
                f"{key} = {first_block} is not a block of this model.",
                f"Its tower has {len(self)} blocks: allowed are {-len(self)} to {len(self) - 1}.",
            )
        return index

    def layer_shapes(self, first_block: int, targets: tuple[str, ...]) -> dict[str, tuple[int, int]]:
        """(out, in) of every target layer from `first_block` on, by its name in CLIPModel."""
        shapes = {}
        for index in range(first_block, len(self)):
            for target in targets:
                group = "self_attn" if target in ATTENTION_LAYERS else "mlp"
                layer: Any = getattr(getattr(self.blocks[index], group), target)
                shapes[f"{self.prefix}.{index}.{group}.{target}"] = (layer.out_features, layer.in_features)
        return shapes

    def run(self, hidden: Tensor, start: int, lora: Lora | None = None, stop: int | None = None) -> Tensor:
        """Blocks start…stop-1 (to the end by default) on hidden states of shape (B, S, d)."""
        for index in range(start, len(self) if stop is None else stop):
            hidden = self._block(index, hidden, lora, rows=None)
        return hidden

    def run_to_rows(self, hidden: Tensor, start: int, rows: Tensor, lora: Lora | None = None) -> Tensor:
        """Hidden state (B, d) of one token per sequence after the last block.

        Args:
            hidden: (B, S, d) input of block `start`.
            start: First block to run.
            rows: (B,) position of the token that is read; the last block computes no other.
            lora: Adapters; layers without one run plain.
        """
        last = len(self) - 1
        hidden = self.run(hidden, start, lora, stop=last)
        return self._block(last, hidden, lora, rows=rows)[:, 0]

    def _block(self, index: int, hidden: Tensor, lora: Lora | None, rows: Tensor | None) -> Tensor:
        block: Any = self.blocks[index]
        attended = self._attention(index, block.layer_norm1(hidden), lora, rows)
        hidden = attended + (hidden if rows is None else pick_rows(hidden, rows))
        return hidden + self._mlp(index, block.layer_norm2(hidden), lora)

    def _attention(self, index: int, hidden: Tensor, lora: Lora | None, rows: Tensor | None) -> Tensor:
        layer: Any = self.blocks[index].self_attn
        name = f"{self.prefix}.{index}.self_attn"
        asking = hidden if rows is None else pick_rows(hidden, rows)
        mask = up_to_row_mask(rows, hidden.shape[1]) if self.causal and rows is not None else None
        query = adapted_linear(layer.q_proj, f"{name}.q_proj", asking, lora)
        key = adapted_linear(layer.k_proj, f"{name}.k_proj", hidden, lora)
        value = adapted_linear(layer.v_proj, f"{name}.v_proj", hidden, lora)
        attended = scaled_dot_product_attention(
            self._split(query),
            self._split(key),
            self._split(value),
            attn_mask=mask,
            is_causal=self.causal and rows is None,
        )
        merged = attended.transpose(1, 2).flatten(2)  # (B, S, d)
        return adapted_linear(layer.out_proj, f"{name}.out_proj", merged, lora)

    def _mlp(self, index: int, hidden: Tensor, lora: Lora | None) -> Tensor:
        layer: Any = self.blocks[index].mlp
        name = f"{self.prefix}.{index}.mlp"
        widened = layer.activation_fn(adapted_linear(layer.fc1, f"{name}.fc1", hidden, lora))
        return adapted_linear(layer.fc2, f"{name}.fc2", widened, lora)

    def _split(self, projected: Tensor) -> Tensor:
        """(B, S, d) -> (B, heads, S, d / heads)."""
        batch, length, width = projected.shape
        return projected.view(batch, length, self.heads, width // self.heads).transpose(1, 2)


def pick_rows(hidden: Tensor, rows: Tensor) -> Tensor:
    """(B, 1, d): token rows[b] of each sequence of (B, S, d)."""
    return hidden.gather(1, rows[:, None, None].expand(-1, 1, hidden.shape[-1]))


def up_to_row_mask(rows: Tensor, length: int) -> Tensor:
    """(B, 1, 1, S) mask that lets the token at rows[b] attend to itself and earlier tokens."""
    return (torch.arange(length, device=rows.device) <= rows[:, None])[:, None, None, :]
