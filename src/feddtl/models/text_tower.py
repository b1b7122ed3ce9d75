"""The text half of a backbone: class names to projected features. In FedDTL it runs on the server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from feddtl.models.towers import UNCHANGED, Adapter, Beside, BlockStack, Changes
from feddtl.prompts import CLASS, templates_of

# Base, novel and all classes, below the trained blocks and from the start.
CACHED_TEXTS = 6

Key = TypeVar("Key")
Value = TypeVar("Value")


class TextTower(ABC):
    """Texts to projected features, in five steps: tokenize, embed, blocks, pool, project.

    A backbone implements the abstract methods. Every text has a position, (C,): that of the token that the tower reads.
    Callers pass positions on and do not compute with them.

    Args:
        stack: Its blocks.

    Attributes:
        device: Where it computes.
        width: d, of the hidden states.
        max_tokens: Positions that it has, among them those of start and end; None: unlimited or unknown.
        trained_tokens: Tokens of the longest text of its training; None: unknown.
        architecture: Everything besides weights and tokenizer that determines the output, as JSON.
    """

    architecture: Mapping[str, Any] = MappingProxyType({})
    max_tokens: int | None = None
    trained_tokens: int | None = None

    def __init__(self, stack: BlockStack) -> None:
        self.stack = stack
        self.device = stack.device
        self.width = stack.width
        # A functools cache of a bound method would be a reference cycle, which keeps the weights of an unused tower.
        self._tokens: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}
        self._prefixes: dict[tuple[tuple[str, ...], int, torch.dtype], tuple[Tensor, Tensor]] = {}

    @abstractmethod
    def tokenize_anew(self, prompts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """As `tokenize`, which caches the result."""

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
            instead_of: Number of tokens at the beginning of every text that the vectors replace.

        Raises:
            ModelError: Vectors and prompt together are longer than the tower's context.
        """

    @abstractmethod
    def replace_context(self, hidden: Tensor, context: Tensor) -> Tensor:
        """Input (C, S, d) of a later block, with other learned vectors (n, d) in place of those of `with_context`."""

    @abstractmethod
    def project(self, pooled: Tensor) -> Tensor:
        """Pooled vectors (C, d) to features (C, e), before normalisation, in the precision of the model's weights."""

    def pool(self, hidden: Tensor, positions: Tensor, first_block: int, changes: Changes = UNCHANGED) -> Tensor:
        """One vector (C, d) per text: the blocks from `first_block` on, read at `positions`; see `ImageTower.pool`."""
        return self.stack.run_and_read(hidden, first_block, positions, changes)

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids (C, S) and positions (C,). Raises ModelError for a prompt longer than the tower's context.

        The last few lists are cached, since every training step asks for the same names.
        """
        names = tuple(prompts)
        return cached(self._tokens, names, lambda: self.tokenize_anew(names))

    def prefix(self, prompts: tuple[str, ...], stop: int) -> tuple[Tensor, Tensor]:
        """Output of the frozen blocks: (C, S, d), the input of block `stop`, and positions (C,).

        If `stop` is the number of blocks, no block changes: (C, e), the projected features. The last few are cached,
        since every model of a round needs the same classes.
        """
        return cached(self._prefixes, (prompts, stop, self.stack.precision), lambda: self._prefix(prompts, stop))

    @torch.no_grad()
    def _prefix(self, prompts: tuple[str, ...], stop: int) -> tuple[Tensor, Tensor]:
        """`prefix` without its cache."""
        ids, positions = self.tokenize(prompts)
        hidden = self.embed(ids)
        fused = Changes(attention="sdpa")
        if stop == len(self.stack):
            return self.project(self.pool(hidden, positions, 0, fused)), positions
        below = self.stack.run(hidden, 0, fused, stop=stop)
        # Other texts lay them out again; until then they only take memory.
        self.stack.release(stop)
        return below, positions

    def features(
        self, hidden: Tensor, positions: Tensor, first_block: int, adapter: Adapter = None, beside: Beside | None = None
    ) -> Tensor:
        """Projected features (C, e), before normalisation, from the output of `prefix` for `first_block`."""
        if first_block == len(self.stack):
            return hidden
        return self.project(self.pool(hidden, positions, first_block, Changes(adapter, beside)))


def cached(known: dict[Key, Value], key: Key, compute: Callable[[], Value]) -> Value:
    """The value of a key, computed if it is not known; only the latest `CACHED_TEXTS` are kept."""
    if key not in known:
        value = compute()
        while len(known) >= CACHED_TEXTS:
            del known[next(iter(known))]
        known[key] = value
    return known[key]


def prompts_for(class_names: Sequence[str], template: str) -> list[str]:
    """The template with `{class}` replaced by each class name; underscores become spaces.

    Of T templates, one a line: T · C prompts, those of one template after those of another.
    """
    names = [name.replace("_", " ") for name in class_names]
    return [one.replace(CLASS, name) for one in templates_of(template) for name in names]


def mean_over_templates(features: Tensor, classes: int) -> Tensor:
    """Features of C classes, (..., C, e), from those of their T · C prompts, (..., T · C, e), in the order of
    `prompts_for`.

    With several templates, the mean of unit vectors, as CLIP's authors average them (Radford et al. 2021, §3.1.4);
    its length does not matter to the cosine. With one, the features as they are.
    """
    if features.shape[-2] == classes:
        return features
    *others, prompts, width = features.shape
    units: Tensor = normalize(features, dim=-1).reshape(*others, prompts // classes, classes, width)
    return units.mean(dim=-3)
