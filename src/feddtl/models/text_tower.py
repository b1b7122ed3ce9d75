"""The text half of a backbone: class names to projected features. It lives on FedDTL's server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from feddtl.models.kernels import AttentionKernel
from feddtl.models.towers import Adapter, Beside, BlockStack

# Base, novel and all classes, below the trained blocks and from the start.
REMEMBERED_TEXTS = 6

Key = TypeVar("Key")
Value = TypeVar("Value")


class TextTower(ABC):
    """Texts to projected features, in five steps: tokenize, embed, blocks, pool, project.

    A backbone implements the abstract methods. Every text goes with a position, (C,): the token that the tower reads.
    Callers hand positions on and do not compute with them.

    Args:
        stack: Its blocks.
        device: Where it computes.
    """

    def __init__(self, stack: BlockStack, device: torch.device) -> None:
        self.stack = stack
        self.device = device
        self._tokens: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}
        self._prefixes: dict[tuple[tuple[str, ...], int, torch.dtype], tuple[Tensor, Tensor]] = {}

    @property
    @abstractmethod
    def width(self) -> int:
        """d: width of the hidden states."""

    @abstractmethod
    def tokenize_anew(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """What `tokenize` remembers. Raises ModelError for a prompt that is longer than the tower's context."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Input of block 0, (C, S, d), for token ids (C, S)."""

    @abstractmethod
    def embed_words(self, text: str) -> Tensor:
        """Embeddings (n, d) of a text's own tokens, without positions and without tokens that mark start or end."""

    @abstractmethod
    def with_context(self, prompts: Sequence[str], context: Tensor, instead_of: int = 0) -> tuple[Tensor, Tensor]:
        """Input of block 0, (C, S, d), and positions (C,) of texts with learned vectors (n, d) in front.

        Args:
            prompts: C texts.
            context: (n, d), the same for all texts.
            instead_of: Tokens at the beginning of every text in whose place the vectors stand.

        Raises:
            ModelError: Context and prompt together are longer than the tower's context.
        """

    @abstractmethod
    def replace_context(self, hidden: Tensor, context: Tensor) -> Tensor:
        """Input (C, S, d) of a later block, with other learned vectors (n, d) in place of those of `with_context`."""

    @abstractmethod
    def project(self, pooled: Tensor) -> Tensor:
        """Pooled vectors (C, d) to features (C, e), before normalisation, in the precision of the model's weights."""

    def pool(
        self,
        hidden: Tensor,
        positions: Tensor,
        first_block: int,
        adapter: Adapter = None,
        *,
        beside: Beside | None = None,
        attention: AttentionKernel | None = None,
    ) -> Tensor:
        """One vector (C, d) a text: the blocks from `first_block` on, read at `positions`; see `ImageTower.pool`."""
        return self.stack.run_to_rows(hidden, first_block, positions, adapter, attention, beside)

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids (C, S) and positions (C,).

        The latest few lists are remembered: a training step asks for the same names again and again.

        Raises:
            ModelError: A prompt is longer than the tower's context.
        """
        return recall(self._tokens, tuple(prompts), lambda: self.tokenize_anew(prompts))

    @torch.no_grad()
    def prefix(self, prompts: tuple[str, ...], stop: int) -> tuple[Tensor, Tensor]:
        """What never changes of texts: (C, S, d), the input of block `stop`, and positions (C,).

        Where `stop` is the number of blocks, nothing changes at all: (C, e), the projected features. The latest few are
        remembered, since every model of a round is asked for the same classes.
        """

        def compute() -> tuple[Tensor, Tensor]:
            ids, positions = self.tokenize(prompts)
            hidden = self.embed(ids)
            if stop == len(self.stack):
                return self.project(self.pool(hidden, positions, 0, attention="sdpa")), positions
            below = self.stack.run(hidden, 0, stop=stop, attention="sdpa")
            # Laid out once more for other texts; until then they only take memory.
            self.stack.release(stop)
            return below, positions

        return recall(self._prefixes, (prompts, stop, self.stack.precision), compute)

    def features(
        self,
        hidden: Tensor,
        positions: Tensor,
        first_block: int,
        adapter: Adapter = None,
        beside: Beside | None = None,
    ) -> Tensor:
        """Projected features (C, e), before normalisation, from what `prefix` gives for `first_block`."""
        if first_block == len(self.stack):
            return hidden
        return self.project(self.pool(hidden, positions, first_block, adapter, beside=beside))


def recall(known: dict[Key, Value], key: Key, compute: Callable[[], Value]) -> Value:
    """What is known under a key, computed where it is not; only the latest `REMEMBERED_TEXTS` are kept."""
    if key not in known:
        value = compute()
        while len(known) >= REMEMBERED_TEXTS:
            del known[next(iter(known))]
        known[key] = value
    return known[key]


def prompts_for(class_names: Sequence[str], template: str) -> list[str]:
    """The template with each class name in place of `{class}`; underscores become blanks."""
    return [template.replace("{class}", name.replace("_", " ")) for name in class_names]
