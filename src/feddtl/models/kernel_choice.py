"""The fastest precision and attention kernel for a model on this device, measured once and stored."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Literal

import torch

from feddtl.models.backbone import Backbone
from feddtl.models.image_tower import ImageTower
from feddtl.models.kernels import AttentionKernel, Kernels, as_kernels
from feddtl.models.lora import A_SUFFIX, Lora, init_factors
from feddtl.models.remembered import read_remembered, remember

REMEMBERED = "kernels.json"
# On other devices a clock measures when work is queued, not when it is done.
MEASURED_DEVICES = ("cpu", "cuda")
# bfloat16 costs accuracy in the last digits, and timings are noisy: the simpler choice wins unless clearly slower.
WORTH_BFLOAT16 = 1.2
WORTH_EAGER = 1.1
# Candidates take turns, so that a busy moment affects all of them. The best time counts, since other work on the
# machine can only add to it.
LEAST_TURNS, MOST_TURNS = 3, 20
SECONDS_TO_SPEND = 1.5
MOST_IMAGES = 320
# A processor without instructions for bfloat16 multiplies a hundred times slower: minutes for one step of ViT-B. Matrix
# products are at least half of a step, so nothing else makes up for a factor of this size.
HOPELESS = 4.0
PROBE = 256  # rows and columns of the matrices whose product is timed


def choose_kernels(
    clip: Backbone,
    first_block: int,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    attention: Literal["auto", "sdpa", "eager"] = "auto",
    remembered_in: Path | None = None,
) -> Kernels:
    """The fastest kernels for a training step of the image tower's blocks from `first_block` on.

    'auto' is measured on a CPU and on CUDA, which takes a few seconds for a ViT-B; on other devices it means float32
    and sdpa.

    Args:
        clip: The model on its device.
        first_block: First trained block of the image tower.
        precision: Requested precision, or 'auto'.
        attention: Requested kernel, or 'auto'.
        remembered_in: Folder for the measurements, so that all runs on a machine choose alike; None: not stored.
    """
    precisions = ("float32", "bfloat16") if precision == "auto" else (precision,)
    attentions: tuple[AttentionKernel, ...] = ("sdpa", "eager") if attention == "auto" else (attention,)
    candidates = {"/".join(pair): as_kernels(*pair) for pair in product(precisions, attentions)}
    half: Literal["", "precision", "attention"] = ""
    if "auto" in (precision, attention) and precision != attention:
        half = "attention" if precision == "auto" else "precision"
    if len(candidates) == 1 or clip.image.device.type not in MEASURED_DEVICES:
        only = len(candidates) == 1
        return replace(next(iter(candidates.values())), chosen="set" if only else "default", set_half=half)
    file = None if remembered_in is None else remembered_in / REMEMBERED
    seconds = read_remembered(file).get(key := _key(clip.image, first_block), {})
    if missing := {name: kernels for name, kernels in candidates.items() if name not in seconds}:
        measured = best_seconds(clip.image, first_block, list(missing.values()))
        seconds = {**seconds, **dict(zip(missing, measured, strict=True))}
        remember(file, key, seconds)
    # JSON has no infinity: it is stored as null.
    found = {kernels: seconds[name] for name, kernels in candidates.items()}
    chosen = prefer({kernels: math.inf if value is None else value for kernels, value in found.items()})
    return replace(chosen, chosen="measured" if missing else "remembered", set_half=half)


def prefer(seconds: Mapping[Kernels, float]) -> Kernels:
    """The fastest kernels, where bfloat16 and eager count as slower by `WORTH_BFLOAT16` and `WORTH_EAGER`."""

    def handicapped(kernels: Kernels) -> float:
        slower = WORTH_BFLOAT16 if kernels.precision == torch.bfloat16 else 1.0
        return seconds[kernels] * slower * (WORTH_EAGER if kernels.attention == "eager" else 1.0)

    return min(seconds, key=handicapped)


def best_seconds(tower: ImageTower, first_block: int, choices: Sequence[Kernels]) -> list[float]:
    """Best seconds per image of a training step of the blocks from `first_block` on, for each choice of kernels.

    Infinite for bfloat16 on a processor without it, and for a step that needs more memory than the device has.
    """
    before, begun = tower.stack.kernels, time.perf_counter()
    best = [math.inf] * len(choices)
    try:
        for turn in range(1 + MOST_TURNS):
            if turn > LEAST_TURNS and time.perf_counter() - begun > SECONDS_TO_SPEND:
                break
            for index, kernels in enumerate(choices):
                if kernels.precision != torch.bfloat16 or not bfloat16_is_hopeless(tower.device):
                    tower.stack.use(kernels)
                    step = _training_step(tower, min(first_block, len(tower.stack) - 1))
                    best[index] = min(best[index], _seconds(step))
    finally:
        tower.stack.use(before)
    return best


@cache
def bfloat16_is_hopeless(device: torch.device) -> bool:
    """Whether a small matrix product takes `HOPELESS` times longer in bfloat16 than in float32."""
    best = {torch.float32: math.inf, torch.bfloat16: math.inf}
    for _ in range(1 + LEAST_TURNS):
        for dtype, least in best.items():
            factor = torch.ones(PROBE, PROBE, device=device, dtype=dtype)
            best[dtype] = min(least, _timed(device, partial(torch.mm, factor, factor)))
    return best[torch.bfloat16] > HOPELESS * best[torch.float32]


def _seconds(step: Callable[[], float]) -> float:
    """Seconds of a step; infinite if the device's memory is too small for it."""
    try:
        # The first step also pays for one-time setup.
        step()
        return step()
    except torch.OutOfMemoryError:
        return math.inf


def _training_step(tower: ImageTower, first_block: int) -> Callable[[], float]:
    """A training step on one pass of random activations, which returns its seconds per image."""
    generator = torch.Generator().manual_seed(0)
    count = min(tower.images_per_pass, MOST_IMAGES)
    hidden = torch.randn(count, tower.tokens, tower.width, generator=generator)
    hidden = hidden.to(tower.device, tower.precision)
    drawn = init_factors(tower.stack.layer_shapes(first_block, ("q_proj", "k_proj", "v_proj")), 4, seed=0)
    factors = {name: (t if A_SUFFIX in name else t + 0.01).to(tower.device) for name, t in drawn.items()}
    lora = Lora({name: tensor.requires_grad_() for name, tensor in factors.items()}, 1.0)

    def step() -> None:
        with torch.enable_grad():
            tower.features(hidden, first_block, lora).sum().backward()  # type: ignore[no-untyped-call]

    return lambda: _timed(tower.device, step) / count


def _timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds until the device has done some work."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    begun = now()
    work()
    return now() - begun


def _key(tower: ImageTower, first_block: int) -> str:
    """Everything that determines the timings: device, library, threads, shapes."""
    stack, device = tower.stack, tower.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {_processor()}"
    shape = f"{len(stack)} blocks of {tower.width}, {stack.heads} heads, {tower.tokens} tokens, from {first_block}"
    return f"{name} | torch {torch.__version__}, {torch.get_num_threads()} threads | {shape}"


def _processor() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        model = platform.processor()
    return f"{model} {capability}"
