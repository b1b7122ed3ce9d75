"""Adapters on disk in PEFT's format: `PeftModel` and `AutoPeftModel` load them unchanged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from feddtl.errors import ModelError, shown
from feddtl.models.digests import names_not_finite
from feddtl.models.lora import A_SUFFIX, B_SUFFIX, Lora, layer_names
from feddtl.models.residual import joined, of_one_rank
from feddtl.parsing import parse_table

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
_PREFIX = "base_model.model."
# Settings of PEFT with which a layer is not W_0 + (lora_alpha/r)·B·A.
_VARIANTS = ("use_rslora", "use_dora", "use_qalora", "alpha_pattern", "rank_pattern")


def save_adapter(folder: Path, lora: Lora, base_model: str) -> None:
    """Write an adapter of CLIPModel. Layer names are full paths, so that the other tower is not adapted.

    PEFT knows no residual, so an adapter with one is written as an adapter of the higher rank that has the same effect.
    """
    if lora.residual:
        lora = Lora(of_one_rank(joined(lora.factors, lora.residual)), lora.scaling)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in lora.factors.items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = json.dumps(_config(lora, base_model), indent=2, sort_keys=True)
    (folder / CONFIG_FILE).write_text(config + "\n", encoding="utf-8")


def load_adapter(folder: Path) -> Lora:
    """Read an adapter written by `save_adapter` or by PEFT itself.

    Raises:
        ModelError: Files missing or damaged, values not finite, or not a plain LoRA.
    """
    try:
        config = parse_table((folder / CONFIG_FILE).read_bytes())
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"Cannot read the adapter in {folder}: {error}.", "Write or copy it again.") from None
    if not _is_plain_lora(config, tensors):
        raise ModelError(
            f"The adapter in {folder} is not a plain LoRA.", "Use an adapter written by feddtl or by PEFT's LORA."
        )
    scale, rank = config["lora_alpha"], config["r"]
    if type(scale) not in (int, float) or type(rank) is not int or rank < 1:
        raise ModelError(
            f"{folder / CONFIG_FILE} has lora_alpha = {shown(scale)} and r = {shown(rank)}.",
            "lora_alpha must be a number, and r a whole number of 1 or more; write or copy it again.",
        )
    if bad := names_not_finite(tensors):
        raise ModelError(
            f"The adapter in {folder} cannot be used: {bad[0]} has NaN or infinite values.",
            "Copy it again. If it is the result of a training, it diverged: use an earlier state.",
        )
    factors = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    return Lora(factors, float(scale) / rank)


def _is_plain_lora(config: Any, tensors: Iterable[str]) -> bool:
    return (
        isinstance(config, dict)
        and config.get("peft_type") == "LORA"
        and {"lora_alpha", "r"} <= config.keys()
        and not any(config.get(variant) for variant in _VARIANTS)
        and all(name.endswith((A_SUFFIX, B_SUFFIX)) for name in tensors)
    )


def _config(lora: Lora, base_model: str) -> dict[str, Any]:
    names = layer_names(lora.factors)
    rank = lora.factors[names[0] + A_SUFFIX].shape[0]
    return {
        # With it, AutoPeftModel loads the base model too.
        "auto_mapping": {"base_model_class": "CLIPModel", "parent_library": "transformers"},
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": lora.scaling * rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        # A string is matched as a regular expression on the whole name.
        "target_modules": "|".join(re.escape(name) for name in names),
        "task_type": None,
    }
