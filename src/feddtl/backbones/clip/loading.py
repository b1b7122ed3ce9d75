"""CLIP from files, whole or one tower alone. The only module that imports transformers."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from feddtl.backbones.clip.checks import (
    POSITION_IDS,
    has_plain_activations,
    require_configuration,
    require_preprocessing,
    require_tokenizer,
)
from feddtl.backbones.clip.towers import ClipImageTower, ClipTextTower
from feddtl.backbones.source import local_folder, model_errors, model_folder, model_type
from feddtl.errors import ModelError
from feddtl.models.backbone import Backbone, Tower
from feddtl.models.digests import tokenizer_digest
from feddtl.models.model_files import SAME_MODEL, ModelFiles, ModelSettings
from feddtl.models.modules import (
    PlainConv2d,
    PlainEmbedding,
    PlainLinear,
    align,
    assign_weights,
    plain_encoder,
    plain_norm,
)
from feddtl.models.preprocess import Preprocessing, preprocessing_identity
from feddtl.state_folder import AnyPath, expanded

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
    source: AnyPath,
    device: torch.device | str = "cpu",
    *,
    towers: Collection[Tower] | None = None,
    remembered_in: AnyPath | None = None,
) -> Clip:
    """CLIP from a Hub id, a local folder, or 'tiny-clip' (the embedded one), frozen and in float32.

    With `towers`, only the weights of these are loaded, and those in float32 take memory only when they are used.
    transformers is then imported only for the tokenizer of the text tower, for images, and for settings that are not
    yet in `remembered_in`. The result cannot be exported. A model with an activation function that is rare among CLIPs
    is loaded whole. Code in a model's files, or beside them, is never run.

    Arguments and errors are those of `feddtl.backbones.catalog.load_backbone`.
    """
    source = os.fspath(source)
    folder = model_folder(source)
    files = ModelFiles(folder, source, None if remembered_in is None else expanded(remembered_in))
    settings = files.remembered("settings", lambda: _read_settings(str(folder), source))
    modules = _checked_modules(settings["config"], files, source, folder)
    require_preprocessing(source, folder, settings)
    if towers is not None and has_plain_activations(settings["config"]):
        return _load_towers(source, folder, modules, files, settings, frozenset(towers), torch.device(device))
    model, processor, tokenizer = _read_whole(str(folder), source, files.read(list(modules.state_dict())))
    require_tokenizer(source, tokenizer, settings["config"])
    model.eval().requires_grad_(False).to(device)
    align(model, USED_IN_PLACE)
    image, text = ClipImageTower(model, Preprocessing.of(processor)), ClipTextTower(model, tokenizer)
    known = partial(_tokenizer_digest, files, str(folder), source)
    return Clip(source, image, text, _scale(model, source), model, tokenizer, processor, files.digests, known)


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


def _checked_modules(config: Mapping[str, Any], files: ModelFiles, source: str, folder: Path) -> ClipModules:
    """The modules of a configuration, all of whose weights are in the files. Raises ModelError."""
    require_configuration(source, config, files.names)
    name = source if local_folder(source) is None else str(folder)
    with model_errors(source):
        modules = ClipModules(config, name)
    prefixes = ("logit_scale", *(prefix for tower in PREFIXES.values() for prefix in tower))
    files.require(modules.state_dict(), prefixes, POSITION_IDS)
    return modules


def _load_towers(
    source: str,
    folder: Path,
    model: ClipModules,
    files: ModelFiles,
    settings: Mapping[str, Any],
    towers: frozenset[Tower],
    device: torch.device,
) -> Clip:
    """Some towers of a model."""
    prefixes = ("logit_scale", *(prefix for tower in towers for prefix in PREFIXES[tower]))
    names = [name for name in model.state_dict() if name.startswith(prefixes)]
    assign_weights(model, files.read(names), device)
    align(model, USED_IN_PLACE)
    tokenizer = None
    if "text" in towers:
        tokenizer = _read_tokenizer(str(folder), source)
        require_tokenizer(source, tokenizer, settings["config"])
    preprocessing = Preprocessing(lambda: _read_processor(str(folder), source), settings["preprocessing"])
    image, text = ClipImageTower(model, preprocessing, files.digests, device), ClipTextTower(model, tokenizer, device)
    known = partial(_tokenizer_digest, files, str(folder), source)
    return Clip(source, image, text, _scale(model, source), model, tokenizer, None, files.digests, known)


def _scale(model: Any, source: str) -> float:
    scale = float(model.logit_scale.exp())
    if not math.isfinite(scale):
        raise ModelError(
            f"Cannot load the model {source}: its logit_scale is {float(model.logit_scale)}; exp of it is infinite.",
            SAME_MODEL,
        )
    return scale


def _read_whole(folder: str, source: str, weights: dict[str, Tensor]) -> tuple[Any, Any, Any]:
    """Model, image processor and tokenizer. transformers gets the weights, so that it looks for no other files."""
    with model_errors(source):
        from transformers import CLIPModel

        config = _read_config(folder, source)
        model = CLIPModel.from_pretrained(None, config=config, state_dict=weights, dtype=torch.float32)
        model.name_or_path = folder
        return model, _read_processor(folder, source), _read_tokenizer(folder, source)


def _read_settings(folder: str, source: str) -> ModelSettings:
    """Configuration and preprocessing as JSON."""
    with model_errors(source):
        config = json.loads(json.dumps(_read_config(folder, source).to_dict(), default=str))
    return {"config": config, "preprocessing": preprocessing_identity(_read_processor(folder, source))}


def _read_config(folder: str, source: str) -> Any:
    from transformers import CLIPConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if (kind := model_type(source)) != "clip":
        raise ModelError(f"{source} is a '{kind}' model, not a CLIP.", "Give a CLIPModel.")
    return CLIPConfig.from_pretrained(folder, trust_remote_code=False)


def _read_tokenizer(folder: str, source: str) -> Any:
    with model_errors(source):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _tokenizer_digest(files: ModelFiles, folder: str, source: str) -> str:
    return str(files.remembered("tokenizer", lambda: tokenizer_digest(_read_tokenizer(folder, source))))


def _read_processor(folder: str, source: str) -> Any:
    with model_errors(source):
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        return CLIPImageProcessorPil.from_pretrained(folder, trust_remote_code=False)
