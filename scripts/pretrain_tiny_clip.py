"""Train the bundled tiny CLIP from scratch on generated shapes and write it in Hugging Face format.

Run: python scripts/pretrain_tiny_clip.py --output src/feddtl/assets/tiny-clip --seed 0
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from feddtl.data.shapes import (
    CLASS_NAMES,
    CLASS_PAIRS,
    DOMAINS,
    FEDERATED_DOMAINS,
    PRETRAIN_DOMAINS,
    ByteArray,
    render,
)
from feddtl.seeding import derive_seed, numpy_generator

THREADS = 2
BATCH = 128
PEAK_RATE = 1e-3
WARMUP = 200
MAX_LOGIT_SCALE = math.log(100)
CONTEXT = 64
VOCABULARY = 640
TEST_PER_CLASS = 32
PROMPT = "a photo of a {}."
TEMPLATES = (
    PROMPT, "a photo of a {}", "a photo of the {}.", "a photo of one {}.", "a picture of a {}.",
    "an image of a {}.", "a drawing of a {}.", "a {}", "a {}.", "the {}.", "{}", "this is a {}.",
    "a small {}.", "a large {}.", "a clean photo of a {}.", "a good picture of the {}.",
)  # fmt: skip
# Words outside the shapes, so that the class names of a user's own images fall into few tokens.
COMMON_WORDS = """
animal apple baby back bag ball bank bear bed bee bicycle bird black boat book bottle bowl box bread bridge
brown building bus butterfly cake camera can car castle cat chair chicken child city clock cloud coat coffee
computer cow crab cup dark day deer desk dog dolphin door dress duck eagle eye face factory field fish
floor flower food forest fox frog fruit game garden glass gold grass gray green guitar hair hammer hand hat
helmet highway horse house industrial insect island jacket key kitchen knife lake lamp land leaf left light
lion long machine man map market material metal milk monkey mountain mouse mushroom night number ocean old
open orange paper park pen pencil people permanent person phone piano pillow plane plant plate pot rabbit
rain residential ring river road rock room rose satellite school sea shark sheep ship shirt shoe short sign
silver skirt sky snake snow spider sport spring square station stone store street strawberry sun sweater
table tank television texture tiger tool top tower toy train tree trouser truck turtle type vegetable vehicle
wall watch water whale wheel white wild wind window wolf woman wood yellow young zebra zoo
a an and in is it of on or that the this to with from by for at one two
""".split()  # noqa: SIM905
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Result:
    """Measured values for the model card.

    Attributes:
        accuracies: Percent per domain as (base, novel).
        minutes: Wall-clock time of training.
        idle_minutes: The same at the pace of the fastest stretch, i.e. without other programs at work.
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


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Lower-casing byte-level BPE: every text has tokens, none is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        # The order gives the ids. The end token must not get id 2: transformers takes 2 for the mark of an
        # old faulty configuration and then pools the text at the highest id instead.
        special_tokens=["<pad>", "<unk>", "<bos>", "<eos>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    captions = [template.format(name) for template in TEMPLATES for name in CLASS_NAMES]
    tokenizer.train_from_iterator(captions + COMMON_WORDS * 16, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>",
        pair="<bos> $A $B <eos>",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<bos>", "<eos>")],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=CONTEXT,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """Untrained CLIP: six image blocks of width 128 and four text blocks of width 96."""
    vision = {
        "image_size": 32, "patch_size": 8, "hidden_size": 128, "intermediate_size": 512,
        "num_hidden_layers": 6, "num_attention_heads": 4, "projection_dim": 128,
    }  # fmt: skip
    text = {
        "vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT, "hidden_size": 96,
        "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4, "projection_dim": 128,
        "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    return CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=128))


def normalise(images: ByteArray) -> torch.Tensor:
    """(N, 32, 32, 3) bytes to the (N, 3, 32, 32) floats that the image processor would give."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def draw(labels: np.ndarray, domains: np.ndarray, generator: np.random.Generator) -> torch.Tensor:
    """(N, 3, 32, 32) normalised images of these class ids in these domains."""
    pairs = np.asarray(CLASS_PAIRS)[labels]
    return normalise(render(pairs[:, 0], pairs[:, 1], domains, generator))


def contrastive_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of image-to-text and text-to-image cross entropy.

    Args:
        logits: (N, 64) scaled similarity of every image to one caption per class.
        labels: (N,) class ids; a caption counts all images of its class as right, in equal parts.
    """
    right = functional.one_hot(labels, logits.shape[1]).float()
    per_class = right.sum(0)
    shares = (right / per_class.clamp(min=1)).t()
    by_text = -(shares * logits.t().log_softmax(-1)).sum(-1)
    return (functional.cross_entropy(logits, labels) + by_text[per_class > 0].mean()) / 2


def rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine to zero."""
    warmup = min(WARMUP, steps // 10 + 1)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int) -> float:
    """Fit the model to fresh images and one randomly worded caption per class in every step.

    Returns:
        Seconds per step of the fastest stretch of 100 steps.
    """
    generator = numpy_generator(seed, "pretrain images and captions")
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, steps))
    stretch, paces = time.perf_counter(), []
    for step in range(steps):
        labels = generator.integers(0, len(CLASS_NAMES), BATCH)
        domains = generator.integers(0, len(PRETRAIN_DOMAINS), BATCH)
        wording = generator.integers(0, len(TEMPLATES), len(CLASS_NAMES))
        captions = [TEMPLATES[form].format(name) for form, name in zip(wording, CLASS_NAMES, strict=True)]
        text = tokenizer(captions, padding=True, return_tensors="pt")
        logits = model(pixel_values=draw(labels, domains, generator), **text).logits_per_image
        loss = contrastive_loss(logits, torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        model.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            paces.append((time.perf_counter() - stretch) / (step % 100 + 1))
            stretch = time.perf_counter()
            print(f"step {step + 1}/{steps}  loss {loss.item():.3f}  {paces[-1]:.2f} s a step", flush=True)
    return min(paces)


@torch.no_grad()
def calibrate_projection(model: CLIPModel, seed: int) -> None:
    """Scale the image projection until noise of FedDTL's σ = 0.1 moves the logits as it does in ViT-B/16.

    The scale of a projected feature z is free, because CLIP normalises it. Noise of standard deviation σ on z
    moves a logit by about σ·s/‖z‖: about 1 for ViT-B/16 (‖z‖ ≈ 10, s = 100). Here ‖z‖ = s/10 gives the same.
    """
    model.eval()  # type: ignore[no-untyped-call]
    labels = np.repeat(np.arange(len(CLASS_NAMES)), 4)
    images = draw(labels, labels % len(PRETRAIN_DOMAINS), numpy_generator(seed, "pretrain calibration"))
    features = model.get_image_features(pixel_values=images).pooler_output
    model.visual_projection.weight *= model.logit_scale.exp() / 10 / features.norm(dim=-1).mean()


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
        # Each half competes only within itself.
        logits[base[:, None] != base[::TEST_PER_CLASS][None]] = -torch.inf
        right = (logits.argmax(-1) == torch.from_numpy(labels)).float() * 100
        found[DOMAINS[domain]] = (right[base].mean().item(), right[~base].mean().item())
    return found


def model_card(model: CLIPModel, result: Result, output: str) -> str:
    """README.md of the model folder, every number measured in this run."""
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
{" and ".join(PRETRAIN_DOMAINS)} only. The domains {", ".join(FEDERATED_DOMAINS)} are new to the model.
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

Mean over the domains not in pretraining: {unseen:.1f}.

## Remake

    python scripts/pretrain_tiny_clip.py --output {output} --seed {result.seed} --steps {result.steps}

## Licence

Apache-2.0, weights included.
"""


def save(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, card: str, output: Path) -> None:
    """Write the folder that `from_pretrained` reads, with its model card."""
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    # safetensors writes for the owner alone; an installed package is read by everyone.
    (output / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(output)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True, "do_resize": True, "size": {"shortest_edge": 32}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": 32, "width": 32},
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": MEAN, "image_std": STD,
    }  # fmt: skip
    (output / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", "utf-8")
    (output / "README.md").write_text(card, "utf-8")


def main() -> None:
    """Train, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(derive_seed(options.seed, "pretrain weights"))
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    started = time.perf_counter()
    pace = train(model, tokenizer, options.seed, options.steps)
    minutes = (time.perf_counter() - started) / 60
    calibrate_projection(model, options.seed)
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
    save(model, tokenizer, model_card(model, result, options.output.as_posix()), options.output)


if __name__ == "__main__":
    main()
