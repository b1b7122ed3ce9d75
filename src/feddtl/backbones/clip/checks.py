"""Whether the files of a CLIP belong together: configuration, weights, tokenizer and preprocessor."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from feddtl.backbones.clip.towers import LEGACY_END_OF_TEXT
from feddtl.errors import ModelError
from feddtl.models.model_files import SAME_MODEL
from feddtl.models.modules import ACTIVATIONS
from feddtl.models.preprocess_checks import CHANNELS, preprocessing_problem

# Constants that older versions of transformers stored among the weights.
POSITION_IDS = tuple(f"{tower}_model.embeddings.position_ids" for tower in ("vision", "text"))
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
OF_IMAGES, OF_TEXTS = ("image_size", "patch_size", "num_channels"), ("vocab_size", "max_position_embeddings")


def has_plain_activations(config: Mapping[str, Any]) -> bool:
    """Whether both towers of a configuration have an activation function that `ClipModules` has."""
    return all(config[tower]["hidden_act"] in ACTIVATIONS for tower in ("vision_config", "text_config"))


def require_configuration(source: str, config: Mapping[str, Any], weights: Collection[str]) -> None:
    """Raise ModelError for a configuration that no CLIP can have, or with another number of blocks than the weights.

    The number of blocks is compared first, because a wrong one would be built.

    Args:
        source: Name of the model in errors.
        config: CLIPConfig as a dictionary.
        weights: Names of the tensors in its files.
    """
    for tower, own in (("vision", OF_IMAGES), ("text", OF_TEXTS)):
        part = config[f"{tower}_config"]
        for key in (*SIZES, *own):
            if type(part.get(key)) is not int or part[key] < 1:
                raise _not_fitting(source, f"config.json has {tower}_config.{key} = {part.get(key)!r}")
        epsilon = part.get("layer_norm_eps")
        if not (type(epsilon) is float and 0 <= epsilon < 1):
            raise _not_fitting(source, f"config.json has {tower}_config.layer_norm_eps = {epsilon!r}")
        if part["hidden_size"] % part["num_attention_heads"]:
            raise _not_fitting(
                source,
                f"in config.json, {tower}_config.hidden_size = {part['hidden_size']} is not a multiple of "
                f"num_attention_heads = {part['num_attention_heads']}",
            )
        block = re.compile(rf"{tower}_model\.encoder\.layers\.(\d+)\.")
        stored = len({found[1] for name in weights if (found := block.match(name))})
        if stored != part["num_hidden_layers"]:
            raise _not_fitting(
                source,
                f"config.json describes {part['num_hidden_layers']} blocks of the {tower} tower "
                f"({tower}_config.num_hidden_layers); the weights have {stored}",
            )
    if type(end := config["text_config"].get("eos_token_id")) is not int:
        raise _not_fitting(source, f"config.json has text_config.eos_token_id = {end!r}, not one whole number")
    image = config["vision_config"]
    if image["num_channels"] != CHANNELS:
        raise _not_fitting(source, f"it takes images of {image['num_channels']} channels, not {CHANNELS}")
    if image["patch_size"] > image["image_size"]:
        raise _not_fitting(
            source, f"its patches of {image['patch_size']} pixels are larger than its images of {image['image_size']}"
        )


def require_preprocessing(source: str, folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise ModelError for a preprocessor whose images the image tower does not take."""
    side = settings["config"]["vision_config"]["image_size"]
    if problem := preprocessing_problem(settings["preprocessing"], side):
        raise ModelError(
            f"The preprocessor of the model {source} {problem}.",
            f"Put the preprocessor_config.json of the same model into {folder}, or correct this entry: size and "
            f"crop_size are {side} there.",
        )


def require_tokenizer(source: str, tokenizer: Any, config: Mapping[str, Any]) -> None:
    """Raise ModelError for a tokenizer of another model, or the empty one that transformers has for missing files.

    Args:
        source: Name of the model in errors.
        tokenizer: Of transformers.
        config: CLIPConfig as a dictionary.
    """
    end_of_text, known = int(config["text_config"]["eos_token_id"]), int(config["text_config"]["vocab_size"])
    first, second = tokenizer(["a", "b"])["input_ids"]
    hint = "Put the tokenizer files of the same model (tokenizer.json, tokenizer_config.json) next to its weights."
    if first == second or (end_of_text != LEGACY_END_OF_TEXT and end_of_text not in first):
        raise ModelError(
            f"The tokenizer of {source} does not fit the model: it maps different texts to the same tokens, or to none "
            f"that ends the text ({end_of_text}).",
            hint,
        )
    if (largest := max(tokenizer.get_vocab().values())) >= known:
        raise ModelError(
            f"The tokenizer of {source} does not fit the model: it has tokens up to {largest}, and the model's "
            f"vocabulary ends at {known - 1}.",
            hint,
        )


def _not_fitting(source: str, problem: str) -> ModelError:
    return ModelError(f"Cannot load the model {source}: {problem}.", SAME_MODEL)
