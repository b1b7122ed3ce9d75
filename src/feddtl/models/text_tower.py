"""CLIP's text tower: class names to projected features. It lives on FedDTL's server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from feddtl.errors import ModelError
from feddtl.models.towers import Adapter, BlockStack, require_held

LEGACY_END_OF_TEXT = 2
# Base, novel and all classes, below the trained blocks and from the start.
REMEMBERED_TEXTS = 6

Key = TypeVar("Key")
Value = TypeVar("Value")


class TextTower:
    """Class names to projected features; lives on the server.

    Args:
        model: CLIPModel of transformers, or `ClipModules`.
        tokenizer: Of its texts; None where the weights of this tower are not loaded.
        device: Where it computes; None: where its weights are.
    """

    def __init__(self, model: Any, tokenizer: Any, device: torch.device | None = None) -> None:
        text = model.text_model
        self.stack = BlockStack(
            text.encoder,
            "text_model.encoder.layers",
            model.config.text_config.num_attention_heads,
            causal=True,
            device=device,
        )
        self._text = text
        self._projection = model.text_projection
        self._tokenizer = tokenizer
        self._tokens: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}
        self._eos = int(model.config.text_config.eos_token_id)
        self._context = int(model.config.text_config.max_position_embeddings)
        self._prefixes: dict[tuple[tuple[str, ...], int, torch.dtype], tuple[Tensor, Tensor]] = {}
        self.device: torch.device = device or self._projection.weight.device

    @property
    def width(self) -> int:
        """d: width of the hidden states."""
        return int(self._projection.in_features)

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids (C, S) and the position of each end of text, (C,).

        S is the longest prompt: under causal attention no token behind an end of text is ever read. The latest few
        lists are remembered: a training step asks for the same names again and again.

        Raises:
            ModelError: A prompt is longer than the tower's context.
        """
        return recall(self._tokens, tuple(prompts), lambda: self._tokenize(prompts))

    def _tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        require_held(self._projection.weight, "the text tower")
        rows = self._tokenizer(list(prompts), padding=False, truncation=False)["input_ids"]
        longest = max(range(len(rows)), key=lambda index: len(rows[index]))
        if len(rows[longest]) > self._context:
            raise ModelError(
                f"The prompt {prompts[longest]!r} has {len(rows[longest])} tokens; this model takes {self._context}.",
                "Shorten the class name or the prompt template (data.prompt).",
            )
        ids = torch.zeros(len(rows), len(rows[longest]), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        return ids.to(self.device), self._end_of_text(ids).to(self.device)

    def _end_of_text(self, ids: Tensor) -> Tensor:
        # The old default of configurations whose vocabulary ends with that token: transformers then pools at
        # the largest id.
        if self._eos == LEGACY_END_OF_TEXT:
            return ids.argmax(dim=-1)
        return (ids == self._eos).int().argmax(dim=-1)

    def embed(self, ids: Tensor) -> Tensor:
        """Input of block 0, (C, S, d), for token ids (C, S)."""
        tokens = self.embed_tokens(ids)
        positions: Tensor = self._text.embeddings.position_embedding.weight[: ids.shape[1]]
        return tokens + positions

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Token embeddings (C, S, d) of ids (C, S), without positions."""
        hidden: Tensor = self._text.embeddings.token_embedding(ids)
        return hidden

    def embed_context(self, ids: Tensor, context: Tensor) -> Tensor:
        """Input of block 0, (C, n + S, d): learned context vectors (n, d) between the start of text and the rest.

        Raises:
            ModelError: Context and prompt together are longer than the tower's context.
        """
        length = ids.shape[1] + len(context)
        if length > self._context:
            raise ModelError(
                f"{len(context)} context vectors and prompts of {ids.shape[1]} tokens make {length}; this model takes "
                f"{self._context}.",
                f"Use at most {max(self._context - ids.shape[1], 0)} context vectors, or shorten the class names.",
            )
        tokens = self.embed_tokens(ids)
        between = context.expand(len(ids), -1, -1).to(tokens.dtype)
        positions: Tensor = self._text.embeddings.position_embedding.weight[:length]
        placed = torch.cat([tokens[:, :1], between, tokens[:, 1:]], dim=1)
        return placed + positions.to(placed.dtype)

    @torch.no_grad()
    def prefix(self, prompts: tuple[str, ...], stop: int) -> tuple[Tensor, Tensor]:
        """What never changes of texts: (C, S, d), the input of block `stop`, and each end of text, (C,).

        Where `stop` is the number of blocks, nothing changes at all: (C, e), the projected features. The latest few are
        remembered, since every model of a round is asked for the same classes.
        """

        def compute() -> tuple[Tensor, Tensor]:
            ids, ends = self.tokenize(prompts)
            hidden = self.embed(ids)
            if stop == len(self.stack):
                return self.project(self.stack.run_to_rows(hidden, 0, ends, attention="sdpa")), ends
            below = self.stack.run(hidden, 0, stop=stop, attention="sdpa")
            # Laid out once more for other texts; until then they only take memory.
            self.stack.release(stop)
            return below, ends

        return recall(self._prefixes, (prompts, stop, self.stack.precision), compute)

    def features(self, hidden: Tensor, ends: Tensor, first_block: int, adapter: Adapter = None) -> Tensor:
        """Projected text features (C, e), before normalisation, from what `prefix` gives for `first_block`."""
        if first_block == len(self.stack):
            return hidden
        return self.project(self.stack.run_to_rows(hidden, first_block, ends, adapter))

    def project(self, token: Tensor) -> Tensor:
        """End of text (C, d) after the last block to features (C, e), in the precision of the model's weights."""
        # The final layer norm acts on each token alone, so it may follow the choice of the row.
        token = token.to(self._projection.weight.dtype)
        projected: Tensor = self._projection(self._text.final_layer_norm(token))
        return projected


def recall(known: dict[Key, Value], key: Key, compute: Callable[[], Value]) -> Value:
    """What is known under a key, computed where it is not; only the latest `REMEMBERED_TEXTS` are kept."""
    if key not in known:
        value = compute()
        while len(known) >= REMEMBERED_TEXTS:
            del known[next(iter(known))]
        known[key] = value
    return known[key]
