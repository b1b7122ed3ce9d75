"""The towers of CLIP (Radford et al. 2021).

An image is read at a class token in front of its patches. Texts are causal and are read at their end-of-text token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.nn.utils.rnn import pad_sequence

from feddtl.errors import ModelError
from feddtl.models.digests import Digests, digests_in_memory
from feddtl.models.image_tower import ImageTower
from feddtl.models.preprocess import Preprocessing
from feddtl.models.text_tower import TextTower
from feddtl.models.towers import UNCHANGED, BlockStack, Changes, require_loaded

# An old default in configurations whose vocabulary ends with the end-of-text token.
LEGACY_END_OF_TEXT = 2
# Settings of a tower that its weights do not show.
ARCHITECTURE = ("num_attention_heads", "hidden_act", "layer_norm_eps")


class ClipImageTower(ImageTower):
    """Images to projected features.

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
        self._model = model
        self._vision = model.vision_model
        self._projection = model.visual_projection
        self._digests = digests or digests_in_memory(model)
        config = model.config.vision_config
        heads, blocks = config.num_attention_heads, self._vision.encoder.layers
        stack = BlockStack(blocks, "vision_model.encoder.layers", heads, causal=False, device=device)
        name = Path(model.name_or_path).name if Path(model.name_or_path).is_dir() else str(model.name_or_path)
        super().__init__(
            stack,
            preprocessing,
            name,
            tokens=int(self._vision.embeddings.position_embedding.num_embeddings),
            feature_width=int(self._projection.out_features),
            architecture={key: getattr(config, key) for key in ARCHITECTURE},
        )

    def prefix_digests(self, stop: int) -> dict[str, str]:
        parts = {"embeddings": "vision_model.embeddings", "pre_layrnorm": "vision_model.pre_layrnorm"}
        parts |= {f"blocks.{index}": f"{self.stack.prefix}.{index}" for index in range(stop)}
        if stop == len(self.stack):
            parts |= {"post_layernorm": "vision_model.post_layernorm", "projection": "visual_projection"}
        names = {
            f"{part}.{name}": f"{path}.{name}"
            for part, path in parts.items()
            for name in self._model.get_submodule(path).state_dict()
        }
        digests = self._digests(names.values())
        return {name: digests[in_model] for name, in_model in names.items()}

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Class token first, then the patches. They do not overlap, so their convolution is one matrix product."""
        embeddings = self._vision.embeddings
        require_loaded(embeddings.class_embedding, "the image tower")
        weight = embeddings.patch_embedding.weight  # (d, 3, p, p)
        side = weight.shape[-1]
        batch, channels, height, width = pixel_values.shape
        rows, columns = height // side, width // side
        # As a convolution, which leaves out the pixels after the last whole patch.
        whole = pixel_values[:, :, : rows * side, : columns * side].to(self.precision)
        cut = whole.reshape(batch, channels, rows, side, columns, side)
        patches = linear(cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2), weight.flatten(1).to(self.precision))
        first = embeddings.class_embedding.expand(batch, 1, -1)
        positions = embeddings.position_embedding.weight
        hidden: Tensor = self._vision.pre_layrnorm(torch.cat([first, patches.to(first.dtype)], dim=1) + positions)
        return hidden

    def with_prompts(self, hidden: Tensor, prompts: Tensor) -> Tensor:
        """Learned tokens after the patches; like patches, they pass the norm after the embeddings."""
        first: Tensor = self._vision.pre_layrnorm(prompts)
        return torch.cat([hidden.to(first.dtype), first.expand(len(hidden), -1, -1)], dim=1)

    def replace_prompts(self, hidden: Tensor, prompts: Tensor) -> Tensor:
        return _replaced(hidden, prompts, hidden.shape[1] - len(prompts))

    def pool(self, hidden: Tensor, first_block: int, changes: Changes = UNCHANGED) -> Tensor:
        """The class token, (B, d)."""
        class_tokens = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
        return self.stack.run_and_read(hidden, first_block, class_tokens, changes)

    def project(self, pooled: Tensor) -> Tensor:
        require_loaded(self._projection.weight, "the image tower")
        return _projected(pooled, self._vision.post_layernorm, self._projection)


class ClipTextTower(TextTower):
    """Texts to projected features.

    Args:
        model: CLIPModel of transformers, or `ClipModules`.
        tokenizer: Of its texts; None if the weights of this tower are not loaded.
        device: Where it computes; None: where its weights are.
    """

    def __init__(self, model: Any, tokenizer: Any, device: torch.device | None = None) -> None:
        config = model.config.text_config
        self._text = model.text_model
        self._projection = model.text_projection
        self._tokenizer = tokenizer
        self._eos = int(config.eos_token_id)
        self.max_tokens: int = int(config.max_position_embeddings)
        # Not of CLIP's configuration: this repository's training scripts write it, other models have none.
        self.trained_tokens = getattr(config, "trained_tokens", None)
        self.architecture = {key: getattr(config, key) for key in (*ARCHITECTURE, "eos_token_id")}
        heads, blocks = config.num_attention_heads, self._text.encoder.layers
        super().__init__(BlockStack(blocks, "text_model.encoder.layers", heads, causal=True, device=device))

    def tokenize_anew(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids (C, S) and the position of each end of text, (C,).

        S is the longest prompt: under causal attention no token after an end of text is ever read.
        """
        require_loaded(self._projection.weight, "the text tower")
        tokens = self._tokenizer(list(prompts), padding=False, truncation=False)["input_ids"]
        longest = max(range(len(tokens)), key=lambda index: len(tokens[index]))
        if len(tokens[longest]) > self.max_tokens:
            raise ModelError(
                f"The prompt {prompts[longest]!r} has {len(tokens[longest])} tokens; the model allows "
                f"{self.max_tokens}.",
                "Shorten the class name or the prompt template (data.prompt).",
            )
        ids = pad_sequence([torch.tensor(prompt) for prompt in tokens], batch_first=True)
        # As transformers, which pools at the largest id if the configuration has the old default.
        ends = (ids if self._eos == LEGACY_END_OF_TEXT else (ids == self._eos).int()).argmax(dim=-1)
        return ids.to(self.device), ends.to(self.device)

    def embed(self, ids: Tensor) -> Tensor:
        tokens = self._embed_tokens(ids)
        positions: Tensor = self._text.embeddings.position_embedding.weight[: ids.shape[1]]
        return tokens + positions

    def embed_words(self, text: str) -> Tensor:
        ids, ends = self.tokenize([text])
        return self._embed_tokens(ids[:, 1 : int(ends[0])])[0]

    def with_context(self, prompts: Sequence[str], context: Tensor, instead_of: int = 0) -> tuple[Tensor, Tensor]:
        """Context vectors between the start of text and the rest."""
        ids, ends = self.tokenize(prompts)
        length = ids.shape[1] - instead_of + len(context)
        if length > self.max_tokens:
            room = max(self.max_tokens - ids.shape[1] + instead_of, 0)
            raise ModelError(
                f"{len(context)} context vectors and prompts of {ids.shape[1] - instead_of} tokens make {length}; this "
                f"model takes {self.max_tokens}.",
                f"Use at most {room} context vectors, or shorten the class names.",
            )
        tokens = self._embed_tokens(ids)
        between = context.expand(len(ids), -1, -1).to(tokens.dtype)
        positions: Tensor = self._text.embeddings.position_embedding.weight[:length]
        hidden = torch.cat([tokens[:, :1], between, tokens[:, 1 + instead_of :]], dim=1)
        return hidden + positions.to(hidden.dtype), ends + (len(context) - instead_of)

    def replace_context(self, hidden: Tensor, context: Tensor) -> Tensor:
        return _replaced(hidden, context, 1)

    def project(self, pooled: Tensor) -> Tensor:
        # The final layer norm acts on single tokens, so it may follow the choice of the token.
        return _projected(pooled, self._text.final_layer_norm, self._projection)

    def _embed_tokens(self, ids: Tensor) -> Tensor:
        hidden: Tensor = self._text.embeddings.token_embedding(ids)
        return hidden


def _projected(pooled: Tensor, norm: Any, projection: Any) -> Tensor:
    """Features (B, e) in the precision of the model's weights."""
    features: Tensor = projection(norm(pooled.to(projection.weight.dtype)))
    return features


def _replaced(hidden: Tensor, vectors: Tensor, position: int) -> Tensor:
    """(B, S, d) with the tokens from `position` on replaced by vectors (n, d)."""
    inserted = vectors.to(hidden.dtype).expand(len(hidden), -1, -1)
    return torch.cat([hidden[:, :position], inserted, hidden[:, position + len(vectors) :]], dim=1)
