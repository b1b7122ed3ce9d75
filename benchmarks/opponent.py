"""The reference at its best: precision, attention and batch chosen by a short measurement on this machine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch.nn.functional import normalize

from benchmarks.measure import alternate
from benchmarks.reference_loop import Client, ReferenceLoop, Server
from benchmarks.reference_parts import Compute, Federation, Images, Roles, Settings, seeded
from benchmarks.workload import NAMES, SHAPES, Workload, prompts
from feddtl.models.kernel_choice import bfloat16_is_hopeless

TRIALS = 2
TRIAL_IMAGES = 32
PRECISIONS: tuple[Literal["float32", "bfloat16", "autocast"], ...] = ("float32", "bfloat16", "autocast")
ATTENTIONS: tuple[Literal["sdpa", "eager"], ...] = ("sdpa", "eager")
EVALUATION_BATCHES = (64, 128)
SCALE = 100.0


@dataclass(frozen=True)
class Opponent:
    """The reference's settings and how they were found.

    Attributes:
        image: Of the image tower.
        text: Of the text tower, with prompts padded to the longest.
        trials: Seconds of every candidate.
    """

    image: Compute
    text: Compute
    trials: dict[str, float]

    def child_options(self, roles: Roles = "per-role", *, one_round_each: bool = False) -> dict[str, Any]:
        """Options of `benchmarks.child`."""
        towers = {"image": asdict(self.image), "text": asdict(self.text)}
        return {**towers, "roles": roles, "one_round_each": one_round_each}

    def loop(self, workload: Workload, federation: Federation) -> ReferenceLoop:
        """Two rounds, one of each stage."""
        settings = Settings(rounds=2, sft_rounds=1)
        return ReferenceLoop(workload.model, federation, settings, self.image, self.text)


def defaults(device: str) -> Opponent:
    """The defaults of transformers: float32 and sdpa."""
    return Opponent(Compute(device=device), Compute(device=device), {})


def find_best(workload: Workload) -> Opponent:
    """The fastest of all candidates: the image tower by a client's SFT, the text tower by the server's training."""
    trials: dict[str, float] = {}
    image = _fastest("image", {compute: _image_trial(workload, compute) for compute in _candidates(workload)}, trials)
    client = _client(workload, image)
    pixels = torch.randn(max(EVALUATION_BATCHES), 3, *[SHAPES[workload.shape].side] * 2).to(image.device, image.dtype)

    def evaluation(compute: Compute) -> Callable[[], object]:
        def work() -> object:
            client.compute = compute
            return client.embed(pixels)

        return work

    batches = [replace(image, evaluation_batch=batch) for batch in EVALUATION_BATCHES]
    image = _fastest("evaluation", {compute: evaluation(compute) for compute in batches}, trials)
    return Opponent(image, best_text(workload, workload.classes // 2, "longest", trials), trials)


def best_text(
    workload: Workload, classes: int, padding: Literal["longest", "max_length"], trials: dict[str, float]
) -> Compute:
    """The fastest settings of the text tower for so many classes and this padding."""
    candidates = [replace(compute, padding=padding) for compute in _candidates(workload)]
    works = {compute: _text_trial(workload, compute, classes) for compute in candidates}
    return _fastest(f"text, {classes} classes", works, trials)


def _candidates(workload: Workload) -> list[Compute]:
    precisions = PRECISIONS[:1] if bfloat16_is_hopeless(torch.device(workload.device)) else PRECISIONS
    pairs = itertools.product(precisions, ATTENTIONS)
    return [Compute(precision, attention, workload.device) for precision, attention in pairs]


def _fastest(what: str, works: Mapping[Compute, Callable[[], object]], trials: dict[str, float]) -> Compute:
    """The candidate with the least time over some trials, taken in turn."""
    names = {f"{what}: {c.precision}, {c.attention}, batch {c.evaluation_batch}, {c.padding}": c for c in works}
    samples = alternate({name: works[compute] for name, compute in names.items()}, TRIALS)
    least = {name: min(values) for name, values in samples.items()}
    trials.update(least)
    return names[min(least, key=lambda name: least[name])]


def _client(workload: Workload, compute: Compute) -> Client:
    return Client(workload.model, compute, Settings(sft_epochs=1), SCALE)


def _image_trial(workload: Workload, compute: Compute) -> Callable[[], object]:
    """One SFT epoch and the upload on a few images."""
    client = _client(workload, compute)
    shape, generator = SHAPES[workload.shape], torch.Generator().manual_seed(0)
    pixels = torch.randn(TRIAL_IMAGES, 3, shape.side, shape.side, generator=generator)
    images = Images(pixels, torch.arange(TRIAL_IMAGES) % 10).to(compute)
    text = normalize(torch.randn(10, shape.joint, generator=generator), dim=-1).to(compute.device)
    image = client.tower.get()
    return lambda: client.fit("sft", image, image, text, images, seeded(0), 0, 1)


def _text_trial(workload: Workload, compute: Compute, classes: int) -> Callable[[], object]:
    """Two steps of text training."""
    server = Server(workload.model, compute, Settings(server_epochs=2), SCALE)
    tokens = server.tokenize(prompts(NAMES[:classes]))
    embeddings = normalize(torch.randn(64, SHAPES[workload.shape].joint), dim=-1).to(compute.device)
    images = Images(embeddings, torch.arange(64, device=compute.device) % classes)
    text = server.tower.get()
    return lambda: server.train(text, tokens, images, torch.Generator().manual_seed(0))
