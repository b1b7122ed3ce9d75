"""A tiny random CLIP in Hugging Face format and random images: no network, no trained weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from feddtl.data.table import ImageTable
from feddtl.models.clip import Clip, load_clip

# The first use of a tower is slow, so a time limit per example says nothing; the same examples every time.
settings.register_profile("feddtl", deadline=None, derandomize=True)
settings.load_profile("feddtl")

MakeClip = Callable[..., Path]

IMAGE_SIZE = 16
CONTEXT = 64
LOGIT_SCALE = 20.0


@pytest.fixture(scope="session")
def make_clip(tmp_path_factory: pytest.TempPathFactory) -> MakeClip:
    """Writes a tiny random CLIP and returns its folder; equal arguments give the same folder."""

    @cache
    def make(*, image_blocks: int = 4, text_blocks: int = 3, heads: int = 4, legacy_eos: bool = False) -> Path:
        folder = tmp_path_factory.mktemp("clip")
        tokenizer = build_tokenizer(legacy_eos)
        build_model(tokenizer, image_blocks, text_blocks, heads, legacy_eos).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=side).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def clip_folder(make_clip: MakeClip) -> Path:
    """Folder of the default tiny random CLIP: 4 image blocks, 3 text blocks, width 32."""
    return make_clip()


@pytest.fixture(scope="session")
def clip(clip_folder: Path) -> Clip:
    """The default tiny random CLIP; shared by all tests, so none may change it."""
    return load_clip(str(clip_folder))


def build_tokenizer(legacy_eos: bool) -> PreTrainedTokenizerFast:
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


def build_model(
    tokenizer: PreTrainedTokenizerFast, image_blocks: int, text_blocks: int, heads: int, legacy_eos: bool
) -> CLIPModel:
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


@pytest.fixture(scope="session")
def make_images() -> Callable[..., ImageTable]:
    """Builds a table of random pictures; the label decides the colour, so that classes can be learnt."""

    def make(labels: list[int], seed: int = 0, size: tuple[int, int] = (IMAGE_SIZE, IMAGE_SIZE)) -> ImageTable:
        rng = np.random.default_rng(seed)
        colours = np.random.default_rng(0).integers(30, 226, size=(64, 1, 1, 3))
        noise = rng.integers(-30, 31, size=(len(labels), size[1], size[0], 3))
        pixels = (colours[labels] + noise).astype(np.uint8)
        rows = np.arange(len(labels))
        return ImageTable(
            lambda row: Image.fromarray(pixels[row]), rows, np.asarray(labels, np.int64), np.zeros_like(rows)
        )

    return make
