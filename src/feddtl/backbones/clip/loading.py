"""CLIP from files, whole or one tower alone. The only module that imports transformers."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from feddtl.backbones.clip.towers import LEGACY_END_OF_TEXT, ClipImageTower, ClipTextTower
from feddtl.backbones.source import downloaded, local_folder, model_errors
from feddtl.errors import ModelError
from feddtl.models.backbone import Backbone, Tower
from feddtl.models.model_files import ModelSettings, open_model_files
from feddtl.models.modules import (
    ACTIVATIONS,
    PlainConv2d,
    PlainEmbedding,
    PlainLinear,
    align,
    assign_weights,
    plain_encoder,
    plain_norm,
)
from feddtl.models.preprocess import Preprocessing, preprocessing_identity

# Prefixes of a tower's weights in CLIPModel's state dict.
PREFIXES: dict[Tower, tuple[str, str]] = {
    "image": ("vision_model.", "visual_projection."),
    "text": ("text_model.", "text_projection."),
}
# Matrices that the towers use where they lie in memory; `freeze` lays out those of the blocks.
USED_IN_PLACE = ("visual_projection.weight", "text_projection.weight", "vision_model.embeddings.patch_embedding.weight")


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

    With `towers`, only the weights of these are loaded from safetensors files, and those in float32 take memory only
    when they are used. transformers is then imported only for the tokenizer of the text tower, for images, and for
    settings that are not yet in `remembered_in`. The result cannot be exported. A model in other files, one that is not
    downloaded yet, or one with an activation function that is rare among CLIPs is loaded whole.

    Arguments and errors are those of `feddtl.backbones.catalog.load_backbone`.
    """
    folder = local_folder(source)
    if towers is not None and (files := folder or downloaded(source)) is not None:
        loaded = _load_towers(source, files, frozenset(towers), torch.device(device), remembered_in)
        if loaded is not None:
            return loaded
    model, processor, tokenizer = _read_whole(str(folder or source), source)
    model.eval().requires_grad_(False).to(device)
    align(model, USED_IN_PLACE)
    scale, preprocessing = float(model.logit_scale.exp()), Preprocessing.of(processor)
    image, text = ClipImageTower(model, preprocessing), ClipTextTower(model, tokenizer)
    return Clip(source, image, text, scale, model, tokenizer, processor)


class ClipModules(nn.Module):
    """A CLIP without weights: all tensors are on the 'meta' device, which has only their shapes.

    Args:
        config: CLIPConfig of transformers as a dictionary; its activation functions are in `ACTIVATIONS`.
        name: Hub id or folder.
    """

    def __init__(self, config: Mapping[str, Any], name: str) -> None:
        super().__init__()
        vision, text = SimpleNamespace(**config["vision_config"]), SimpleNamespace(**config["text_config"])
        self.config = SimpleNamespace(vision_config=vision, text_config=text)
        self.name_or_path = name
        joint = config["projection_dim"]
        with torch.device("meta"):
            self.logit_scale = nn.Parameter(torch.empty(()))
            self.text_model = _text_model(text)
            self.vision_model = _vision_model(vision)
            self.visual_projection = PlainLinear(vision.hidden_size, joint, bias=False)
            self.text_projection = PlainLinear(text.hidden_size, joint, bias=False)


def _vision_model(config: Any) -> nn.ModuleDict:
    width, patch = config.hidden_size, config.patch_size
    convolution = PlainConv2d(config.num_channels, width, kernel_size=patch, stride=patch, bias=False)
    positions = PlainEmbedding((config.image_size // patch) ** 2 + 1, width)
    embeddings = nn.ModuleDict({"patch_embedding": convolution, "position_embedding": positions})
    embeddings.register_parameter("class_embedding", nn.Parameter(torch.empty(width)))
    parts = {"embeddings": embeddings, "pre_layrnorm": plain_norm(config), "encoder": plain_encoder(config)}
    return nn.ModuleDict({**parts, "post_layernorm": plain_norm(config)})


def _text_model(config: Any) -> nn.ModuleDict:
    tokens = PlainEmbedding(config.vocab_size, config.hidden_size)
    positions = PlainEmbedding(config.max_position_embeddings, config.hidden_size)
    embeddings = nn.ModuleDict({"token_embedding": tokens, "position_embedding": positions})
    parts = {"embeddings": embeddings, "encoder": plain_encoder(config), "final_layer_norm": plain_norm(config)}
    return nn.ModuleDict(parts)


def _load_towers(
    source: str, folder: Path, towers: frozenset[Tower], device: torch.device, remembered_in: Path | None
) -> Clip | None:
    """Some towers of a model; None if its files or its activation functions require transformers."""
    files = open_model_files(folder, remembered_in)
    if files is None:
        return None
    settings = files.settings(lambda: _read_settings(str(folder), source))
    config = settings["config"]
    if not all(config[tower]["hidden_act"] in ACTIVATIONS for tower in ("vision_config", "text_config")):
        return None
    model = ClipModules(config, source if local_folder(source) is None else str(folder))
    weights = model.state_dict()
    if not files.fit(weights):
        return None
    prefixes = ("logit_scale", *(prefix for tower in towers for prefix in PREFIXES[tower]))
    assign_weights(model, files.read([name for name in weights if name.startswith(prefixes)]), device)
    align(model, USED_IN_PLACE)
    tokenizer = None
    if "text" in towers:
        with model_errors(source):
            tokenizer = _read_tokenizer(str(folder))
        _check_tokenizer(source, tokenizer, int(config["text_config"]["eos_token_id"]))
    preprocessing = Preprocessing(lambda: _read_processor(str(folder), source), settings["preprocessing"])
    image, text = ClipImageTower(model, preprocessing, files.digests, device), ClipTextTower(model, tokenizer, device)
    return Clip(source, image, text, float(model.logit_scale.exp()), model, tokenizer, None, files.digests)


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
    _check_tokenizer(source, tokenizer, int(model.config.text_config.eos_token_id))
    return model, processor, tokenizer


def _read_settings(folder: str, source: str) -> ModelSettings:
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


def _check_tokenizer(source: str, tokenizer: Any, end_of_text: int) -> None:
    """Raise ModelError for a tokenizer without a vocabulary, with which transformers replaces missing files."""
    first, second = tokenizer(["a", "b"])["input_ids"]
    if first == second or (end_of_text != LEGACY_END_OF_TEXT and end_of_text not in first):
        raise ModelError(
            f"The tokenizer of {source} does not fit the model: it maps different texts to the same tokens, or to none "
            f"that ends the text ({end_of_text}).",
            "Put the tokenizer files of the same model (tokenizer.json, tokenizer_config.json) next to its weights.",
        )
