"""Train the bundled tiny CLIP from scratch on generated shapes and write it in Hugging Face format.

Run: python scripts/pretrain_tiny_clip.py --output src/feddtl/assets/tiny-clip --seed 0
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPModel, PreTrainedTokenizerFast

from feddtl.data.drawing import DOMAINS, FEDERATED_DOMAINS, PRETRAIN_DOMAINS, SHIFTED, ByteArray, render
from feddtl.data.shapes import CLASS_NAMES, CLASS_PAIRS
from feddtl.seeding import derive_seed, numpy_generator
from pretraining import folder
from pretraining.fitting import build_optimizer, calibrate_projection, contrastive_loss, descend
from pretraining.text import build_tokenizer

THREADS = 2
BATCH = 128
PEAK_RATE = 1e-3
WARMUP = 200
VOCABULARY = 640
TEST_PER_CLASS = 32
PROMPT = "a photo of a {}."
TEMPLATES = (
    PROMPT, "a photo of a {}", "a photo of the {}.", "a photo of one {}.", "a picture of a {}.",
    "an image of a {}.", "a drawing of a {}.", "a {}", "a {}.", "the {}.", "{}", "this is a {}.",
    "a small {}.", "a large {}.", "a clean photo of a {}.", "a good picture of the {}.",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """Measured values for the model card.

    Attributes:
        accuracies: Percent per domain as (base, novel).
        minutes: Wall-clock time of training.
        idle_minutes: The same at the speed of the fastest stretch, i.e. without other programs running.
        steps: Optimiser steps.
        seed: Seed of weights and images.
        logit_scale: Final factor on the cosine similarities.
    """

    accuracies: dict[str, tuple[float, float]]
    minutes: float
    idle_minutes: float
    steps: int
    seed: int
    logit_scale: float


def build_model(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """Untrained CLIP: six image blocks of width 128 and four text blocks of width 96."""
    image = {
        "patch_size": 8, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 6,
        "num_attention_heads": 4,
    }  # fmt: skip
    text = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
    return folder.build_model(tokenizer, image, text, joint_width=128)


def normalise(images: ByteArray) -> torch.Tensor:
    """Convert (N, 32, 32, 3) bytes to the (N, 3, 32, 32) floats that the image processor would return."""
    return folder.normalise(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)


def draw(labels: np.ndarray, domains: np.ndarray, generator: np.random.Generator) -> torch.Tensor:
    """(N, 3, 32, 32) normalised images of these class ids in these domains."""
    pairs = np.asarray(CLASS_PAIRS)[labels]
    return normalise(render(pairs[:, 0], pairs[:, 1], domains, generator))


def train(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int) -> float:
    """Fit the model to fresh images and one randomly worded caption per class in every step.

    Returns:
        Seconds per step of the fastest stretch of 100 steps.
    """
    generator = numpy_generator(seed, "pretrain images and captions")
    optimizer, schedule = build_optimizer(model, steps, peak_rate=PEAK_RATE, longest_warmup=WARMUP)
    stretch, paces = time.perf_counter(), []
    for step in range(steps):
        labels = generator.integers(0, len(CLASS_NAMES), BATCH)
        domains = generator.integers(0, len(PRETRAIN_DOMAINS), BATCH)
        wording = generator.integers(0, len(TEMPLATES), len(CLASS_NAMES))
        captions = [TEMPLATES[form].format(name) for form, name in zip(wording, CLASS_NAMES, strict=True)]
        text = tokenizer(captions, padding=True, return_tensors="pt")
        logits = model(pixel_values=draw(labels, domains, generator), **text).logits_per_image
        loss = contrastive_loss(logits, torch.from_numpy(labels))
        descend(model, loss, optimizer, schedule)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            paces.append((time.perf_counter() - stretch) / (step % 100 + 1))
            stretch = time.perf_counter()
            print(f"step {step + 1}/{steps}  loss {loss.item():.3f}  {paces[-1]:.2f} s a step", flush=True)
    return min(paces)


def calibration_images(seed: int) -> torch.Tensor:
    """(256, 3, 32, 32) normalised images, four of each class, over the domains of the training."""
    labels = np.repeat(np.arange(len(CLASS_NAMES)), 4)
    return draw(labels, labels % len(PRETRAIN_DOMAINS), numpy_generator(seed, "pretrain calibration"))


@torch.no_grad()
def accuracies(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> dict[str, tuple[float, float]]:
    """Percent per domain: first 32 names on their images, last 32 names on theirs."""
    model.eval()  # type: ignore[no-untyped-call]
    prompts = [PROMPT.format(name) for name in CLASS_NAMES]
    text = tokenizer(prompts, padding=True, return_tensors="pt")
    labels = np.repeat(np.arange(len(CLASS_NAMES)), TEST_PER_CLASS)
    base = torch.from_numpy(labels) < len(CLASS_NAMES) // 2
    found = {}
    for domain in range(len(DOMAINS)):
        images = draw(labels, np.full_like(labels, domain), numpy_generator(seed, "pretrain test", domain))
        logits = model(pixel_values=images, **text).logits_per_image
        # Each half is classified only among its own names.
        logits[base[:, None] != base[::TEST_PER_CLASS][None]] = -torch.inf
        right = (logits.argmax(-1) == torch.from_numpy(labels)).float() * 100
        found[DOMAINS[domain]] = (right[base].mean().item(), right[~base].mean().item())
    return found


def model_card(model: CLIPModel, result: Result, output: str) -> str:
    """README.md of the model folder; every number is measured in this run."""
    size = sum(weight.numel() for weight in model.parameters())
    rows = [
        f"| {domain} | {'yes' if domain in PRETRAIN_DOMAINS else 'no'} | {base:.1f} | {novel:.1f} |"
        for domain, (base, novel) in result.accuracies.items()
    ]
    unseen = np.mean([result.accuracies[domain] for domain in FEDERATED_DOMAINS])
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: zero-shot-image-classification
---

# tiny-clip

A CLIP of {size / 1e6:.2f} million parameters for tests and demonstrations of federated fine-tuning on a plain
computer. It knows coloured shapes ("red star") and nothing else; it is not for real images.

## Data

Images drawn by `feddtl.data.shapes`: 8 colours x 8 shapes, 32 x 32 pixels, in the domains
{" and ".join(PRETRAIN_DOMAINS)} only. The domains {", ".join((*FEDERATED_DOMAINS, SHIFTED))} are new to the model.
No photograph, no person and no downloaded material was used. Captions are {len(TEMPLATES)} wordings of
the 64 names.

## Training

{result.steps} steps of {BATCH} fresh images from random weights, seed {result.seed}: {result.minutes:.1f} minutes
on {THREADS} processor cores ({result.idle_minutes:.1f} at the pace of the fastest 100 steps; other programs slow it
down). Loss: contrastive, one caption per class. Final logit scale: {result.logit_scale:.1f}. The image projection
is scaled so that latent noise of standard deviation 0.1 moves a logit by about 1, as in CLIP ViT-B/16; predictions
do not depend on that scale.

## Zero-shot accuracy

Percent, prompt "{PROMPT.format("{class}")}", {TEST_PER_CLASS} new images per class and domain.
Base: the first 32 class names on their images; novel: the last 32 on theirs. All 64 pairs occur in
pretraining.

| domain | in pretraining | base | novel |
|---|---|---|---|
{chr(10).join(rows)}

Mean over {", ".join(FEDERATED_DOMAINS)}: {unseen:.1f}.

## Remake

    python scripts/pretrain_tiny_clip.py --output {output} --seed {result.seed} --steps {result.steps}

## Licence

Apache-2.0, weights included.
"""


def main() -> None:
    """Train, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(derive_seed(options.seed, "pretrain weights"))
    captions = [form.format(name) for form in TEMPLATES for name in CLASS_NAMES]
    tokenizer = build_tokenizer(captions, VOCABULARY)
    model = build_model(tokenizer)
    started = time.perf_counter()
    pace = train(model, tokenizer, options.seed, options.steps)
    minutes = (time.perf_counter() - started) / 60
    calibrate_projection(model, calibration_images(options.seed))
    result = Result(
        accuracies=accuracies(model, tokenizer, options.seed),
        minutes=minutes,
        idle_minutes=pace * options.steps / 60,
        steps=options.steps,
        seed=options.seed,
        logit_scale=model.logit_scale.exp().item(),
    )
    for domain, (base, novel) in result.accuracies.items():
        print(f"{domain:10s} base {base:5.1f}  novel {novel:5.1f}")
    card = model_card(model, result, options.output.as_posix())
    folder.write_model(model, tokenizer, captions, card, options.output)


if __name__ == "__main__":
    main()
