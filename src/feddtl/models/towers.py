"""The transformer blocks of a tower, walked one by one on the weights of transformers' own modules.

Walking by hand lets frozen blocks run once, adapters be plain tensors, and the last block compute only the
token that is read. Tests compare every tower with transformers' own forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from feddtl.errors import ConfigError, ModelError
from feddtl.models.blocks import FrozenBlock, freeze
from feddtl.models.kernels import AttentionKernel, Kernels, attend
from feddtl.models.lora import Lora, LoraGroup, LowRank, stacked

ATTENTION_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj")
Adapter = Lora | LoraGroup | None
# (block, its input (B, ..., d) after the block's first norm) -> what is added to the block's output, (B, ..., d)
Beside = Callable[[int, Tensor], Tensor]

# On a CPU, a temporary above 32 MB (glibc's largest threshold) is mapped and page-faulted at every use, which costs
# as much as the arithmetic. Smaller ones also profit from the processor's caches. See benchmarks/LOG.md.
CPU_BYTES_PER_PASS = 12_000_000
# On a GPU a pass only has to leave memory for the rest.
GPU_BYTES_PER_PASS = 500_000_000
MAX_SEQUENCES_PER_PASS = 512


@dataclass(frozen=True)
class Changes:
    """What one pass changes in frozen blocks.

    Attributes:
        adapter: Adapters; layers without one run unchanged.
        beside: What is added to the output of each block.
        attention: Kernel that replaces the chosen one.
    """

    adapter: Adapter = None
    beside: Beside | None = None
    attention: AttentionKernel | None = None


UNCHANGED = Changes()


class BlockStack:
    """The transformer blocks of one tower.

    Args:
        blocks: Each with the submodules of a CLIPEncoderLayer of transformers.
        prefix: Name of `blocks` in the model's state dict, without a trailing dot.
        heads: Attention heads.
        causal: Whether a token attends to earlier tokens only.
        device: Where it computes; None: where its weights are.
    """

    def __init__(
        self, blocks: nn.ModuleList, prefix: str, heads: int, *, causal: bool, device: torch.device | None = None
    ) -> None:
        self.blocks = blocks
        self.prefix = prefix
        self.heads = heads
        self.causal = causal
        self.kernels = Kernels()
        self.device: torch.device = device or next(self.blocks.parameters()).device
        self._frozen: dict[int, FrozenBlock] = {}

    def __len__(self) -> int:
        return len(self.blocks)

    def use(self, kernels: Kernels) -> None:
        """Compute with these kernels from now on."""
        self.kernels = kernels
        self._frozen = {}

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory; otherwise only their shapes are known."""
        return not next(self.blocks.parameters()).is_meta

    @property
    def width(self) -> int:
        """d: width of the hidden states."""
        return int(self._layer(0, "fc1").in_features)

    @property
    def precision(self) -> torch.dtype:
        """Precision of the hidden states."""
        return self.kernels.precision or next(self.blocks.parameters()).dtype

    def resolve(self, first_block: int, key: str) -> int:
        """Index from 0 of a block counted from either end. Raises ConfigError naming the key."""
        index = first_block + len(self) if first_block < 0 else first_block
        if not 0 <= index < len(self):
            raise ConfigError(
                f"{key} = {first_block} is not a block of this model.",
                f"Its tower has {len(self)} blocks: allowed are {-len(self)} to {len(self) - 1}.",
            )
        return index

    def layer_shapes(self, first_block: int, targets: tuple[str, ...]) -> dict[str, tuple[int, int]]:
        """(out, in) of every target layer from `first_block` on, by its name in the model's state dict."""
        shapes = {}
        for index, target in product(range(first_block, len(self)), targets):
            layer = self._layer(index, target)
            shapes[f"{self.prefix}.{_path(index, target)}"] = (layer.out_features, layer.in_features)
        return shapes

    def sequences_per_pass(self, tokens: int) -> int:
        """How many sequences of S tokens to run in one pass on this device."""
        widest = tokens * int(self._layer(0, "fc1").out_features)
        limit = CPU_BYTES_PER_PASS
        if self.device.type != "cpu":
            # The scores of eager attention count as well.
            widest, limit = max(widest, self.heads * tokens**2), GPU_BYTES_PER_PASS
        return max(1, min(MAX_SEQUENCES_PER_PASS, limit // (widest * self.precision.itemsize)))

    def run(self, hidden: Tensor, start: int, changes: Changes = UNCHANGED, *, stop: int | None = None) -> Tensor:
        """Blocks start…stop-1 (to the end by default) on hidden states of shape (B, S, d)."""
        hidden = hidden.to(self.precision)
        for index in range(start, len(self) if stop is None else stop):
            added = self._beside(index, hidden, changes)
            hidden = self._block(index, hidden, changes)
            hidden = hidden if added is None else hidden + added
        return hidden

    def run_and_read(self, hidden: Tensor, start: int, positions: Tensor, changes: Changes = UNCHANGED) -> Tensor:
        """Hidden state (B, d) of one token per sequence after the last block, which computes no other token.

        Args:
            hidden: (B, S, d) input of block `start`.
            start: First block to run.
            positions: (B,) of the tokens that are read; `changes.beside` of the last block gets only these.
            changes: To the blocks.
        """
        last = len(self) - 1
        hidden = self.run(hidden, start, changes, stop=last)
        added = self._beside(last, tokens_at(hidden, positions), changes)
        read = self._last_block(hidden, positions, changes.adapter)
        return read if added is None else read + added

    def release(self, stop: int) -> None:
        """Free the laid-out weights of the blocks before `stop`; the next use lays them out again."""
        self._frozen = {index: block for index, block in self._frozen.items() if index >= stop}

    def _beside(self, index: int, hidden: Tensor, changes: Changes) -> Tensor | None:
        return None if changes.beside is None else changes.beside(index, self._weights(index).norm1(hidden))

    def _block(self, index: int, hidden: Tensor, changes: Changes) -> Tensor:
        block = self._weights(index)
        normed = block.norm1(hidden)
        projected = block.query_key_value(normed)
        low_ranks = [self._low_rank(index, layer, changes.adapter) for layer in ("q_proj", "k_proj", "v_proj")]
        if (low_rank := stacked(low_ranks, block.width)) is not None:
            projected = low_rank.add_to(projected, normed)
        query, key, value = map(self._split, torch.split(projected, block.width, dim=-1))
        kernel = changes.attention or self.kernels.attention
        attended = attend(query, key, value, kernel, causal=self.causal)
        merged = attended.transpose(1, 2).flatten(2)  # (B, S, d)
        return self._finish(index, hidden, merged, changes.adapter)

    def _last_block(self, hidden: Tensor, positions: Tensor, adapter: Adapter) -> Tensor:
        """The last block for one token per sequence: (B, S, d) -> (B, d).

        One query needs neither keys nor values of all tokens. With x_j the normalised tokens, head by head:
        q·(W_k x_j + b_k) = (W_kᵀ q)·x_j + a constant, which softmax drops, and
        Σ_j p_j (W_v x_j + b_v) = W_v (Σ_j p_j x_j) + b_v, since Σ_j p_j = 1.
        That is 2·heads·S·d products per sequence instead of 2·S·d².
        """
        index, block = len(self) - 1, self._weights(len(self) - 1)
        normed = block.norm1(hidden)
        read = tokens_at(normed, positions)
        query = self._adapted(block.projection(0)(read), index, "q_proj", read, adapter)
        query = query.view(len(query), self.heads, -1) * (block.width // self.heads) ** -0.5  # (B, heads, d_h)
        scores = self._query_times_key_weight(index, query, adapter) @ normed.transpose(1, 2)  # (B, heads, S)
        if self.causal:
            scores = scores.masked_fill(~mask_up_to(positions, normed.shape[1]), -torch.inf)
        mean = scores.softmax(dim=-1) @ normed  # (B, heads, d)
        merged = self._value_weight_times(index, mean, adapter).flatten(1)  # (B, d)
        return self._finish(index, tokens_at(hidden, positions), merged, adapter)

    def _query_times_key_weight(self, index: int, query: Tensor, adapter: Adapter) -> Tensor:
        """W_kᵀ q of each head: (B, heads, d_h) -> (B, heads, d)."""
        weight = self._by_head(self._weights(index).projection(1).weight)  # (heads, d_h, d)
        asked = torch.einsum("bhc,hcd->bhd", query, weight)
        if (low_rank := self._low_rank(index, "k_proj", adapter)) is None:
            return asked
        low = torch.einsum("bhc,hcr->bhr", query, self._by_head(low_rank.up.to(query.dtype)))
        return asked + low_rank.masked(low) @ low_rank.down.to(query.dtype)

    def _value_weight_times(self, index: int, mean: Tensor, adapter: Adapter) -> Tensor:
        """W_v m + b_v of each head for weighted means m of the tokens: (B, heads, d) -> (B, heads, d_h)."""
        projection = self._weights(index).projection(2)
        values = torch.einsum("bhd,hcd->bhc", mean, self._by_head(projection.weight))
        if projection.bias is not None:
            values = values + projection.bias.view(self.heads, -1)
        if (low_rank := self._low_rank(index, "v_proj", adapter)) is None:
            return values
        up = self._by_head(low_rank.up.to(mean.dtype))
        return values + torch.einsum("bhr,hcr->bhc", low_rank.lower(mean), up)

    def _finish(self, index: int, hidden: Tensor, merged: Tensor, adapter: Adapter) -> Tensor:
        """The rest of a block after attention: output projection, MLP and both residual sums, for (B, ..., d)."""
        block = self._weights(index)
        hidden = self._adapted(block.out(merged), index, "out_proj", merged, adapter) + hidden
        normed = block.norm2(hidden)
        widened = self._adapted(block.fc1(normed), index, "fc1", normed, adapter, block.gain)
        activated = block.activation(widened)
        return self._adapted(block.fc2(activated), index, "fc2", activated, adapter, 1 / block.gain) + hidden

    def _adapted(
        self, output: Tensor, index: int, layer: str, inputs: Tensor, adapter: Adapter, gain: float = 1.0
    ) -> Tensor:
        low_rank = self._low_rank(index, layer, adapter)
        return output if low_rank is None else low_rank.add_to(output, inputs, gain)

    def _low_rank(self, index: int, layer: str, adapter: Adapter) -> LowRank | None:
        return None if adapter is None else adapter.low_rank(f"{self.prefix}.{_path(index, layer)}")

    def _weights(self, index: int) -> FrozenBlock:
        if index not in self._frozen:
            require_loaded(next(self.blocks[index].parameters()), self.prefix)
            self._frozen[index] = freeze(self.blocks[index], self.kernels.precision)
        return self._frozen[index]

    def _layer(self, index: int, layer: str) -> Any:
        return self.blocks.get_submodule(_path(index, layer))

    def _by_head(self, matrix: Tensor) -> Tensor:
        """(d, n) -> (heads, d_h, n)."""
        return matrix.view(self.heads, -1, matrix.shape[-1])

    def _split(self, projected: Tensor) -> Tensor:
        """(B, S, d) -> (B, heads, S, d_h)."""
        return projected.view(*projected.shape[:-1], self.heads, -1).transpose(1, 2)


def require_loaded(weight: Tensor, name: str) -> None:
    """Raise ModelError for a weight of a tower of which only the shapes were loaded."""
    if weight.is_meta:
        raise ModelError(
            f"The weights of {name} were not loaded, because this process requested only the other tower.",
            "Load both (`load_backbone` without `towers`); methods name theirs in `client_towers`, `server_towers`.",
        )


def tokens_at(hidden: Tensor, positions: Tensor) -> Tensor:
    """(B, d): token positions[b] of each sequence of (B, S, d)."""
    return hidden[torch.arange(len(hidden), device=hidden.device), positions]


def mask_up_to(positions: Tensor, length: int) -> Tensor:
    """(B, 1, S) mask that lets the token at positions[b] attend to itself and earlier tokens."""
    return (torch.arange(length, device=positions.device) <= positions[:, None])[:, None, :]


def _path(index: int, layer: str) -> str:
    """Name of a layer among the blocks."""
    return f"{index}.{'self_attn' if layer in ATTENTION_LAYERS else 'mlp'}.{layer}"
