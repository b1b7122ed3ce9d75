"""The model card of a CLIP trained by `pretrain_small_clip.py`."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import torch
from transformers import CLIPModel

from feddtl.units import duration
from pretraining.captions import PROMPT, TEMPLATES


@dataclass(frozen=True)
class Made:
    """Measured values of a training.

    Attributes:
        command: The command that reproduces the model.
        steps: Optimiser steps.
        batch_size: Images per step.
        images: Images by data set.
        seconds: Wall-clock time of the steps.
        device: Device that ran the steps.
        accuracies: Percent of the test images by data set.
    """

    command: str
    steps: int
    batch_size: int
    images: dict[str, int]
    seconds: float
    device: torch.device
    accuracies: dict[str, float]


def device_name(device: torch.device) -> str:
    """Human-readable name of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"the CPU ({platform.machine()}), {threads} thread{'s' if threads > 1 else ''}"
    return device.type


def model_card(model: CLIPModel, made: Made) -> str:
    """README.md of the model folder; every number is measured in this training."""
    size = sum(weight.numel() for weight in model.parameters())
    vision: Any = model.config.vision_config
    blocks = f"{vision.num_hidden_layers} image block{'s' if vision.num_hidden_layers > 1 else ''}"
    epochs = made.steps * made.batch_size / sum(made.images.values())
    sources = "\n".join(f"- {count:,} images of {name}" for name, count in made.images.items())
    rows = "\n".join(f"| {name} | {value:.1f} |" for name, value in made.accuracies.items())
    return f"""---
library_name: transformers
pipeline_tag: zero-shot-image-classification
---

# small-clip

A CLIP of {size / 1e6:.2f} million parameters for 32 x 32 pixels ({blocks} of width
{vision.hidden_size}, patches of {vision.patch_size} pixels), trained from random weights by
`scripts/pretrain_small_clip.py` of FedDTL for experiments with federated fine-tuning. It knows only the classes of
the data sets below.

## Data

{sources}

A fixed rule selects one half of CIFAR-10's training images for this training; use the other half for federation
(`--write-halves`). Captions are {len(TEMPLATES)} wordings of the class names. Test images were used once, for the
numbers below.

## Training

{made.steps:,} steps of {made.batch_size} images ({epochs:.2f} epochs): {duration(made.seconds)} on
{device_name(made.device)}.
Loss: contrastive, one caption per class, which matches all images of its class. The weights are an exponential
moving average. Final logit scale: {model.logit_scale.exp().item():.1f}. The image projection is scaled so
that latent noise of standard deviation 0.1 moves a logit by about 1, as in CLIP ViT-B/16; predictions do not depend
on that scale.

## Zero-shot accuracy

Percent of all test images, with the prompt "{PROMPT.format("{class}")}", among the classes of the data set.

| test images | accuracy |
|---|---:|
{rows}

## Reproduce

    {made.command}

## Licence

CIFAR-10 and CIFAR-100 have no stated licence and are used for research. Clarify this before you distribute weights
trained on them.
"""
