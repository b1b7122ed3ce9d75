"""The transformer blocks of a tower, walked one by one on the weights of transformers' own modules.

Walking by hand is what lets frozen blocks run once, adapters be plain tensors, and the last block compute
the one token that is read. Tests hold every tower to transformers' own forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
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

# On a CPU, a temporary above 32 MB is mapped and page-faulted anew at every use (glibc's largest threshold),
# which costs as much as the arithmetic; further down, the processor's caches help too. See benchmarks/LOG.md.
CPU_BYTES_PER_PASS = 12_000_000
# On a GPU the pass only has to leave room for the rest.
GPU_BYTES_PER_PASS = 500_000_000
MAX_SEQUENCES_PER_PASS = 512


class BlockStack:
    """The transformer blocks of one tower.

    Args:
        encoder: Has the blocks as `layers`, each laid out as a CLIPEncoderLayer of transformers.
        prefix: Name of that encoder's blocks in the model's state dict, without a trailing dot.
        heads: Attention heads.
        causal: Whether a token attends to earlier tokens only.
        device: Where it computes; None: where its weights are.
    """

    def __init__(
        self, encoder: Any, prefix: str, heads: int, *, causal: bool, device: torch.device | None = None
    ) -> None:
        self.blocks: nn.ModuleList = encoder.layers
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
    def precision(self) -> torch.dtype:
        """Precision of the hidden states."""
        return self.kernels.precision or next(self.blocks.parameters()).dtype

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
        """(out, in) of every target layer from `first_block` on, by its name in the model's state dict."""
        shapes = {}
        for index in range(first_block, len(self)):
            for target in targets:
                group = "self_attn" if target in ATTENTION_LAYERS else "mlp"
                layer: Any = getattr(getattr(self.blocks[index], group), target)
                shapes[f"{self.prefix}.{index}.{group}.{target}"] = (layer.out_features, layer.in_features)
        return shapes

    def sequences_per_pass(self, tokens: int) -> int:
        """Sequences of S tokens that one pass should hold on this device; more are cut into several passes."""
        first: Any = self.blocks[0]
        widest = tokens * int(first.mlp.fc1.out_features)
        limit = CPU_BYTES_PER_PASS
        if self.device.type != "cpu":
            # The scores of eager attention count as well.
            widest, limit = max(widest, self.heads * tokens**2), GPU_BYTES_PER_PASS
        return max(1, min(MAX_SEQUENCES_PER_PASS, limit // (widest * self.precision.itemsize)))

    def run(
        self,
        hidden: Tensor,
        start: int,
        adapter: Adapter = None,
        stop: int | None = None,
        attention: AttentionKernel | None = None,
        beside: Beside | None = None,
    ) -> Tensor:
        """Blocks start…stop-1 (to the end by default) on hidden states of shape (B, S, d).

        `attention` takes the place of the chosen kernel; `beside` adds to the output of each block.
        """
        hidden = hidden.to(self.precision)
        for index in range(start, len(self) if stop is None else stop):
            added = self._beside(index, hidden, beside)
            hidden = self._block(index, hidden, adapter, attention or self.kernels.attention)
            hidden = hidden if added is None else hidden + added
        return hidden

    def run_to_rows(
        self,
        hidden: Tensor,
        start: int,
        rows: Tensor,
        adapter: Adapter = None,
        attention: AttentionKernel | None = None,
        beside: Beside | None = None,
    ) -> Tensor:
        """Hidden state (B, d) of one token per sequence after the last block.

        Args:
            hidden: (B, S, d) input of block `start`.
            start: First block to run.
            rows: (B,) position of the token that is read; the last block computes no other.
            adapter: Adapters; layers without one run plain.
            attention: See `run`.
            beside: See `run`; of the last block, it is asked for the token that is read.
        """
        last = len(self) - 1
        hidden = self.run(hidden, start, adapter, last, attention, beside)
        added = None if beside is None else self._beside(last, pick_rows(hidden, rows), beside)
        read = self._last_block(hidden, rows, adapter)
        return read if added is None else read + added

    def release(self, stop: int) -> None:
        """Forget the laid-out weights of the blocks before `stop`; they come back when they are needed."""
        self._frozen = {index: block for index, block in self._frozen.items() if index >= stop}

    def _beside(self, index: int, hidden: Tensor, beside: Beside | None) -> Tensor | None:
        return None if beside is None else beside(index, self._weights(index).norm1(hidden))

    def _block(self, index: int, hidden: Tensor, adapter: Adapter, attention: AttentionKernel) -> Tensor:
        block = self._weights(index)
        normed = block.norm1(hidden)
        projected = block.query_key_value(normed)
        low_ranks = [self._low_rank(index, layer, adapter) for layer in ("q_proj", "k_proj", "v_proj")]
        if (low_rank := stacked(low_ranks, block.width)) is not None:
            projected = low_rank.add_to(projected, normed)
        query, key, value = map(self._split, torch.split(projected, block.width, dim=-1))
        attended = attend(query, key, value, attention, causal=self.causal)
        merged = attended.transpose(1, 2).flatten(2)  # (B, S, d)
        return self._finish(index, hidden, merged, adapter)

    def _last_block(self, hidden: Tensor, rows: Tensor, adapter: Adapter) -> Tensor:
        """The last block for one token a sequence: (B, S, d) -> (B, d).

        One query needs neither keys nor values of all tokens. With x_j the normalised tokens, head by head:
        q·(W_k x_j + b_k) = (W_kᵀ q)·x_j + a constant, which softmax drops, and
        Σ_j p_j (W_v x_j + b_v) = W_v (Σ_j p_j x_j) + b_v, since Σ_j p_j = 1.
        That is 2·heads·S·d products a sequence in place of 2·S·d².
        """
        index, block = len(self) - 1, self._weights(len(self) - 1)
        normed = block.norm1(hidden)
        asking = pick_rows(normed, rows)
        query = self._adapted(block.projection(0)(asking), index, "q_proj", asking, adapter)
        query = query.view(len(query), self.heads, -1) * (block.width // self.heads) ** -0.5  # (B, heads, d_h)
        scores = self._asked_of_tokens(index, query, adapter) @ normed.transpose(1, 2)  # (B, heads, S)
        if self.causal:
            scores = scores.masked_fill(~up_to_row_mask(rows, normed.shape[1]), -torch.inf)
        gathered = scores.softmax(dim=-1) @ normed  # (B, heads, d)
        merged = self._values_of(index, gathered, adapter).flatten(1)  # (B, d)
        return self._finish(index, pick_rows(hidden, rows), merged, adapter)

    def _asked_of_tokens(self, index: int, query: Tensor, adapter: Adapter) -> Tensor:
        """W_kᵀ q of each head: (B, heads, d_h) -> (B, heads, d)."""
        weight = self._by_head(self._weights(index).projection(1).weight)  # (heads, d_h, d)
        asked = torch.einsum("bhc,hcd->bhd", query, weight)
        if (low_rank := self._low_rank(index, "k_proj", adapter)) is None:
            return asked
        low = torch.einsum("bhc,hcr->bhr", query, self._by_head(low_rank.up.to(query.dtype)))
        return asked + low_rank.masked(low) @ low_rank.down.to(query.dtype)

    def _values_of(self, index: int, gathered: Tensor, adapter: Adapter) -> Tensor:
        """W_v m + b_v of each head: (B, heads, d) -> (B, heads, d_h)."""
        projection = self._weights(index).projection(2)
        values = torch.einsum("bhd,hcd->bhc", gathered, self._by_head(projection.weight))
        if projection.bias is not None:
            values = values + projection.bias.view(self.heads, -1)
        if (low_rank := self._low_rank(index, "v_proj", adapter)) is None:
            return values
        up = self._by_head(low_rank.up.to(gathered.dtype))
        return values + torch.einsum("bhr,hcr->bhc", low_rank.lower(gathered), up)

    def _finish(self, index: int, hidden: Tensor, merged: Tensor, adapter: Adapter) -> Tensor:
        """What follows attention: output projection, MLP and both residual sums, for (B, ..., d)."""
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
        if adapter is None:
            return None
        group = "self_attn" if layer in ATTENTION_LAYERS else "mlp"
        return adapter.low_rank(f"{self.prefix}.{index}.{group}.{layer}")

    def _weights(self, index: int) -> FrozenBlock:
        if index not in self._frozen:
            require_held(next(self.blocks[index].parameters()), self.prefix)
            self._frozen[index] = freeze(self.blocks[index], self.kernels.precision)
        return self._frozen[index]

    def _by_head(self, matrix: Tensor) -> Tensor:
        """(d, n) -> (heads, d_h, n)."""
        return matrix.view(self.heads, -1, matrix.shape[-1])

    def _split(self, projected: Tensor) -> Tensor:
        """(B, S, d) -> (B, heads, S, d_h)."""
        return projected.view(*projected.shape[:-1], self.heads, -1).transpose(1, 2)


def require_held(weight: Tensor, name: str) -> None:
    """Raise ModelError for a weight of a tower that was not loaded, of which only the shape is known."""
    if weight.is_meta:
        raise ModelError(
            f"The weights of {name} were not loaded, because this process requested only the other tower.",
            "Load both (`load_backbone` without `towers`); methods name theirs in `client_towers`, `server_towers`.",
        )


def pick_rows(hidden: Tensor, rows: Tensor) -> Tensor:
    """(B, d): token rows[b] of each sequence of (B, S, d)."""
    return hidden[torch.arange(len(hidden), device=hidden.device), rows]


def up_to_row_mask(rows: Tensor, length: int) -> Tensor:
    """(B, 1, S) mask that lets the token at rows[b] attend to itself and earlier tokens."""
    return (torch.arange(length, device=rows.device) <= rows[:, None])[:, None, :]
