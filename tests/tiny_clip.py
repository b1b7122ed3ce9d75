"""A tiny random CLIP in Hugging Face format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

IMAGE_SIZE = 16
CONTEXT = 64
LOGIT_SCALE = 20.0


def write_tiny_clip(folder: Path, image_blocks: int, text_blocks: int, heads: int, legacy_eos: bool) -> None:
    """Write model, tokenizer and image processor into a folder."""
    tokenizer = build_tokenizer(legacy_eos)
    build_model(tokenizer, image_blocks, text_blocks, heads, legacy_eos).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=side).save_pretrained(folder)


def build_tokenizer(legacy_eos: bool) -> Any:
    """Byte-level tokens without merges. The end of text has id 3, or with `legacy_eos` the largest id."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    first = ["<pad>", "<unk>", "<bos>"] if legacy_eos else ["<pad>", "<unk>", "<bos>", "<eos>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        [], trainers.BpeTrainer(special_tokens=first, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<bos>", "<eos>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=CONTEXT,
    )


def build_model(tokenizer: Any, image_blocks: int, text_blocks: int, heads: int, legacy_eos: bool) -> Any:
    """CLIP whose outputs depend strongly on every weight, which Hugging Face's small initial ones do not."""
    shared = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": heads, "projection_dim": 24}
    vision = {**shared, "num_hidden_layers": image_blocks, "image_size": IMAGE_SIZE, "patch_size": 8}
    text = {
        **shared,
        "num_hidden_layers": text_blocks,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": CONTEXT,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": 2 if legacy_eos else tokenizer.eos_token_id,
    }
    model = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=24))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name == "logit_scale":
                parameter.fill_(LOGIT_SCALE).log_()
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.1 * noise)
            elif "embedding" in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
    return model.eval()
