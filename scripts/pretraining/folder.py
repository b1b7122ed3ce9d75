"""A model folder in Hugging Face format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from pretraining.text import CONTEXT

IMAGE_SIDE = 32
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
Shape = dict[str, int]


def build_model(tokenizer: PreTrainedTokenizerFast, image: Shape, text: Shape, joint_width: int) -> CLIPModel:
    """Untrained CLIP for 32 x 32 pixels.

    Args:
        tokenizer: Gives the vocabulary and the special tokens.
        image: Shape of the image tower under the names of `CLIPVisionConfig`.
        text: Shape of the text tower under the names of `CLIPTextConfig`.
        joint_width: Width of the projected features.
    """
    vision = {"image_size": IMAGE_SIDE, "projection_dim": joint_width, **image}
    words = {
        "vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT, "projection_dim": joint_width,
        "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, **text,
    }  # fmt: skip
    return CLIPModel(CLIPConfig(vision_config=vision, text_config=words, projection_dim=joint_width))


def normalise(pixels: Tensor) -> Tensor:
    """Convert (N, 3, H, W) values from 0 to 1 to the output of the folder's image processor."""
    mean, std = (torch.tensor(part, device=pixels.device).view(3, 1, 1) for part in (MEAN, STD))
    return (pixels - mean) / std


def write_model(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, captions: Sequence[str], card: str, output: Path
) -> None:
    """Write the files that `from_pretrained` reads, and the model card, to a folder.

    `text_config.trained_tokens` in `config.json` is the length of the longest caption, with start and end: of later
    positions the text tower knows nothing.
    """
    output.mkdir(parents=True, exist_ok=True)
    text: Any = model.config.text_config
    text.trained_tokens = max(map(len, tokenizer(list(captions))["input_ids"]))
    model.save_pretrained(output)
    # safetensors makes files readable only for the owner; an installed package must be readable for everyone.
    (output / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(output)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True, "do_resize": True, "size": {"shortest_edge": IMAGE_SIDE}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": MEAN, "image_std": STD,
    }  # fmt: skip
    (output / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", "utf-8")
    (output / "README.md").write_text(card, "utf-8")
