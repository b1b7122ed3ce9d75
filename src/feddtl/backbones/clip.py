"""CLIP (Radford et al. 2021) and everything specific to it: the only module that imports transformers.

Images are read at a class token in front of the patches. Texts are causal and are read at their end-of-text token.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from feddtl.backbones.source import downloaded, local_folder, model_errors
from feddtl.errors import ModelError
from feddtl.models.backbone import Backbone, Tower
from feddtl.models.digests import Digests, digests_in_memory
from feddtl.models.image_tower import ImageTower
from feddtl.models.kernels import AttentionKernel
from feddtl.models.model_record import ModelRecord, Settings
from feddtl.models.modules import ACTIVATIONS, Encoder, PlainConv2d, PlainEmbedding, PlainLinear, align, hold
from feddtl.models.preprocess import Preprocessing, preprocessing_identity
from feddtl.models.text_tower import TextTower
from feddtl.models.towers import Adapter, Beside, BlockStack, require_held
from feddtl.models.weight_files import open_weights

LEGACY_END_OF_TEXT = 2
# How names of a tower's weights begin in CLIPModel's state dict.
PARTS: dict[Tower, tuple[str, str]] = {
    "image": ("vision_model.", "visual_projection."),
    "text": ("text_model.", "text_projection."),
}
LOGIT_SCALE = "logit_scale"
# Matrices that the towers multiply by as they lie in memory; `freeze` lays out those of the blocks.
MULTIPLIED_BY = ("visual_projection.weight", "text_projection.weight", "vision_model.embeddings.patch_embedding.weight")


class Clip(Backbone):
    """A frozen CLIP."""


def load_clip(
    source: str,
    device: torch.device | str = "cpu",
    *,
    towers: Collection[Tower] | None = None,
    remembered_in: Path | None = None,
) -> Clip:
    """CLIP from a Hub id, a local folder, or 'tiny-clip' (the embedded one), frozen and in float32.

    With `towers`, the weights of these alone are loaded from safetensors files, and those in float32 take memory only
    as they are used. transformers is then imported for the tokenizer of the text tower, for images, and for settings
    that `remembered_in` does not know yet. Such a CLIP cannot be exported. A model in other files, one that has to be
    downloaded first, or one with an activation function that is rare among CLIPs is loaded whole all the same.

    Args:
        source: See above.
        device: Where it computes.
        towers: Those that will be used; None: the whole model.
        remembered_in: The cache folder, where settings and hashes of weights are remembered for later processes; None:
            nowhere.

    Raises:
        ModelError: Not found, not a CLIP, or files missing.
    """
    folder = local_folder(source)
    if towers is not None:
        here = folder or downloaded(source)
        found = None if here is None else _load_towers(source, here, frozenset(towers), device, remembered_in)
        if found is not None:
            return found
    model, processor, tokenizer = _read_whole(str(folder or source), source)
    model.eval().requires_grad_(False).to(device)
    align(model, MULTIPLIED_BY)
    scale, preprocessing = float(model.logit_scale.exp()), Preprocessing.of(processor)
    image, text = ClipImageTower(model, preprocessing), ClipTextTower(model, tokenizer)
    return Clip(source, image, text, scale, model, tokenizer, processor)


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
        self._vision = model.vision_model
        self._projection = model.visual_projection
        self._digests = digests or digests_in_memory(model)
        heads = model.config.vision_config.num_attention_heads
        stack = BlockStack(self._vision.encoder, "vision_model.encoder.layers", heads, causal=False, device=device)
        name = Path(model.name_or_path).name if Path(model.name_or_path).is_dir() else str(model.name_or_path)
        super().__init__(stack, preprocessing, name, device or self._projection.weight.device)

    @property
    def is_loaded(self) -> bool:
        """Whether its weights are here, and not only their shapes."""
        return not self._projection.weight.is_meta

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
    def architecture(self) -> dict[str, Any]:
        """Settings that determine the output besides the weights: heads, activation function, norms' epsilon."""
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

    def with_prompts(self, hidden: Tensor, prompts: Tensor) -> Tensor:
        """Learned tokens behind the patches; they pass the norm behind the embeddings, as patches do."""
        first: Tensor = self._vision.pre_layrnorm(prompts)
        return torch.cat([hidden.to(first.dtype), first.expand(len(hidden), -1, -1)], dim=1)

    def replace_prompts(self, hidden: Tensor, prompts: Tensor) -> Tensor:
        """Other tokens (n, d) in place of the last n."""
        return _placed(hidden, prompts, hidden.shape[1] - len(prompts))

    def pool(
        self,
        hidden: Tensor,
        first_block: int,
        adapter: Adapter = None,
        *,
        beside: Beside | None = None,
        attention: AttentionKernel | None = None,
    ) -> Tensor:
        """The class token, (B, d)."""
        class_tokens = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
        return self.stack.run_to_rows(hidden, first_block, class_tokens, adapter, attention, beside)

    def project(self, pooled: Tensor) -> Tensor:
        """Class token (B, d) after the last block to features (B, e), in the precision of the model's weights."""
        require_held(self._projection.weight, "the image tower")
        pooled = pooled.to(self._projection.weight.dtype)
        projected: Tensor = self._projection(self._vision.post_layernorm(pooled))
        return projected


class ClipTextTower(TextTower):
    """Texts to projected features.

    Args:
        model: CLIPModel of transformers, or `ClipModules`.
        tokenizer: Of its texts; None where the weights of this tower are not loaded.
        device: Where it computes; None: where its weights are.
    """

    def __init__(self, model: Any, tokenizer: Any, device: torch.device | None = None) -> None:
        config = model.config.text_config
        self._text = model.text_model
        self._projection = model.text_projection
        self._tokenizer = tokenizer
        self._eos = int(config.eos_token_id)
        self._context = int(config.max_position_embeddings)
        heads = config.num_attention_heads
        stack = BlockStack(self._text.encoder, "text_model.encoder.layers", heads, causal=True, device=device)
        super().__init__(stack, device or self._projection.weight.device)

    @property
    def width(self) -> int:
        """d: width of the hidden states."""
        return int(self._projection.in_features)

    def tokenize_anew(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids (C, S) and the position of each end of text, (C,).

        S is the longest prompt: under causal attention no token behind an end of text is ever read.
        """
        require_held(self._projection.weight, "the text tower")
        rows = self._tokenizer(list(prompts), padding=False, truncation=False)["input_ids"]
        longest = max(range(len(rows)), key=lambda index: len(rows[index]))
        if len(rows[longest]) > self._context:
            raise ModelError(
                f"The prompt {prompts[longest]!r} has {len(rows[longest])} tokens; the model allows {self._context}.",
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
        tokens = self._embed_tokens(ids)
        positions: Tensor = self._text.embeddings.position_embedding.weight[: ids.shape[1]]
        return tokens + positions

    def embed_words(self, text: str) -> Tensor:
        """Embeddings (n, d) of a text's own tokens."""
        ids, ends = self.tokenize([text])
        return self._embed_tokens(ids[:, 1 : int(ends[0])])[0]

    def with_context(self, prompts: Sequence[str], context: Tensor, instead_of: int = 0) -> tuple[Tensor, Tensor]:
        """Context vectors between the start of text and the rest."""
        ids, ends = self.tokenize(prompts)
        length = ids.shape[1] - instead_of + len(context)
        if length > self._context:
            room = max(self._context - ids.shape[1] + instead_of, 0)
            raise ModelError(
                f"{len(context)} context vectors and prompts of {ids.shape[1] - instead_of} tokens make {length}; this "
                f"model takes {self._context}.",
                f"Use at most {room} context vectors, or shorten the class names.",
            )
        tokens = self._embed_tokens(ids)
        between = context.expand(len(ids), -1, -1).to(tokens.dtype)
        positions: Tensor = self._text.embeddings.position_embedding.weight[:length]
        placed = torch.cat([tokens[:, :1], between, tokens[:, 1 + instead_of :]], dim=1)
        return placed + positions.to(placed.dtype), ends + (len(context) - instead_of)

    def replace_context(self, hidden: Tensor, context: Tensor) -> Tensor:
        """Other vectors (n, d) behind the start of text."""
        return _placed(hidden, context, 1)

    def project(self, pooled: Tensor) -> Tensor:
        """End of text (C, d) after the last block to features (C, e), in the precision of the model's weights."""
        # The final layer norm acts on each token alone, so it may follow the choice of the row.
        pooled = pooled.to(self._projection.weight.dtype)
        projected: Tensor = self._projection(self._text.final_layer_norm(pooled))
        return projected

    def _embed_tokens(self, ids: Tensor) -> Tensor:
        hidden: Tensor = self._text.embeddings.token_embedding(ids)
        return hidden


def _placed(hidden: Tensor, vectors: Tensor, position: int) -> Tensor:
    """(B, S, d) with vectors (n, d) in place of the tokens from `position` on."""
    placed = vectors.to(hidden.dtype).expand(len(hidden), -1, -1)
    return torch.cat([hidden[:, :position], placed, hidden[:, position + len(vectors) :]], dim=1)


class ClipModules(nn.Module):
    """A CLIP without weights: all tensors are on the 'meta' device, which knows their shapes alone.

    Args:
        config: CLIPConfig of transformers as a dictionary; one that `is_plain`.
        name: Hub id or folder.
    """

    def __init__(self, config: Mapping[str, Any], name: str) -> None:
        super().__init__()
        vision, text = (SimpleNamespace(**config[part]) for part in ("vision_config", "text_config"))
        self.config = SimpleNamespace(vision_config=vision, text_config=text)
        self.name_or_path = name
        joint = config["projection_dim"]
        with torch.device("meta"):
            self.logit_scale = nn.Parameter(torch.empty(()))
            self.text_model = _TextModel(text)
            self.vision_model = _VisionModel(vision)
            self.visual_projection = PlainLinear(vision.hidden_size, joint, bias=False)
            self.text_projection = PlainLinear(text.hidden_size, joint, bias=False)

    def names_of(self, towers: Collection[Tower]) -> list[str]:
        """Names of the weights of some towers, and of the logit scale."""
        parts = tuple(part for tower in towers for part in PARTS[tower])
        return [name for name in self.state_dict() if name.startswith((*parts, LOGIT_SCALE))]


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether `ClipModules` can hold a CLIP of this configuration."""
    return all(config[part]["hidden_act"] in ACTIVATIONS for part in ("vision_config", "text_config"))


class _VisionModel(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class _VisionEmbeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.num_positions = (config.image_size // patch) ** 2 + 1
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.patch_embedding = PlainConv2d(config.num_channels, width, kernel_size=patch, stride=patch, bias=False)
        self.position_embedding = PlainEmbedding(self.num_positions, width)


class _TextModel(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embeddings = _TextEmbeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class _TextEmbeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.token_embedding = PlainEmbedding(config.vocab_size, config.hidden_size)
        self.position_embedding = PlainEmbedding(config.max_position_embeddings, config.hidden_size)


def _load_towers(
    source: str, folder: Path, towers: frozenset[Tower], device: torch.device | str, remembered_in: Path | None
) -> Clip | None:
    """Some towers of a model; None where its files or its architecture are not as plain as that takes."""
    files = open_weights(folder)
    if files is None:
        return None
    record = ModelRecord(folder, remembered_in)
    settings = record.settings(lambda: _read_settings(str(folder), source))
    config = settings["config"]
    if not is_plain(config):
        return None
    model = ClipModules(config, source if local_folder(source) is None else str(folder))
    if not files.fit(model.state_dict()):
        return None
    device = torch.device(device)
    hold(model, files.read(model.names_of(towers)), device)
    align(model, MULTIPLIED_BY)
    tokenizer = None
    if "text" in towers:
        with model_errors(source):
            tokenizer = _read_tokenizer(str(folder))
        _refuse_tokenizer(source, tokenizer, int(config["text_config"]["eos_token_id"]))
    preprocessing = Preprocessing(lambda: _read_processor(str(folder), source), settings["preprocessing"])
    digests = record.digests(files.digests)
    image, text = ClipImageTower(model, preprocessing, digests, device), ClipTextTower(model, tokenizer, device)
    return Clip(source, image, text, float(model.logit_scale.exp()), model, tokenizer, None, digests)


def _read_whole(folder: str, source: str) -> tuple[Any, Any, Any]:
    """Model, image processor and tokenizer."""
    with model_errors(source):
        from transformers import CLIPModel

        _read_config(folder, source)
        loaded: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        model, report = loaded
        tokenizer, processor = _read_tokenizer(folder), _read_processor(folder, source)
    if missing := report["missing_keys"]:
        raise ModelError(
            f"The model {source} lacks {len(missing)} weights, among them {min(missing)}.",
            "Download it again: config.json and the weights must belong to the same CLIPModel.",
        )
    _refuse_tokenizer(source, tokenizer, int(model.config.text_config.eos_token_id))
    return model, processor, tokenizer


def _read_settings(folder: str, source: str) -> Settings:
    """Configuration and preprocessing as JSON."""
    with model_errors(source):
        config = json.loads(json.dumps(_read_config(folder, source).to_dict(), default=str))
    return {"config": config, "preprocessing": preprocessing_identity(_read_processor(folder, source))}


def _read_config(folder: str, source: str) -> Any:
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    config = AutoConfig.from_pretrained(folder)
    if config.model_type != "clip":
        raise ModelError(f"{source} is a '{config.model_type}' model, not a CLIP.", "Give a CLIPModel.")
    return config


def _read_tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _read_processor(folder: str, source: str) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    with model_errors(source):
        return CLIPImageProcessorPil.from_pretrained(folder)


def _refuse_tokenizer(source: str, tokenizer: Any, end_of_text: int) -> None:
    """Raise ModelError where transformers fills a gap with a tokenizer without a vocabulary."""
    first, second = tokenizer(["a", "b"])["input_ids"]
    if first == second or (end_of_text != LEGACY_END_OF_TEXT and end_of_text not in first):
        raise ModelError(
            f"The tokenizer of {source} does not fit the model: it maps different texts to the same tokens, or to none "
            f"that ends the text ({end_of_text}).",
            "Put the tokenizer files of the same model (tokenizer.json, tokenizer_config.json) next to its weights.",
        )
