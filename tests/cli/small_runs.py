"""A random CLIP of two blocks and folders of small pictures: a whole run takes a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from feddtl.models.clip import EMBEDDED_FOLDER

SIDE = 16
CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")
ROUNDS = 4


def write_clip(folder: Path) -> Path:
    """A random CLIP in Hugging Face format, with the embedded model's tokenizer."""
    shared = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    embedded = CLIPConfig.from_pretrained(EMBEDDED_FOLDER)
    text = {**embedded.text_config.to_dict(), **shared}
    vision = {**shared, "image_size": SIDE, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(EMBEDDED_FOLDER).save_pretrained(folder)
    side = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=side).save_pretrained(folder)
    return folder


def write_photos(root: Path, *, classes: Sequence[str] = CLASSES, train: int = 5, test: int = 3, seed: int = 0) -> Path:
    """PNG pictures as root/train/CLASS/0.png and root/test/CLASS/0.png; the class decides the colour."""
    rng = np.random.default_rng(seed)
    for position, name in enumerate(classes):
        colour = np.random.default_rng(position).integers(30, 226, size=3)
        for split, count in (("train", train), ("test", test)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = colour + rng.integers(-30, 31, size=(SIDE, SIDE, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root
