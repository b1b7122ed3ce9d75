"""feddtl as the benchmarks call it; no other benchmark module uses its training interfaces."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.workload import SHAPES, Workload
from feddtl.config import ComputeConfig, EvaluationConfig, Experiment, LocalConfig, ScheduleConfig
from feddtl.evaluate import accuracy, score_global, share_hits
from feddtl.experiment import run_experiment
from feddtl.messages import Payload, ServerState, Update
from feddtl.observers import RunObserver
from feddtl.preparation import prepare
from feddtl.runtimes.server_step import server_step


def experiment_of(workload: Workload, cache: Path, *, sft_epochs: int = 2) -> Experiment:
    """The workload at feddtl's defaults: the paper's constants, evaluation in every round, automatic precision."""
    return Experiment(
        model=str(workload.model),
        rounds=workload.rounds,
        data=workload.data,
        local=LocalConfig(epochs=sft_epochs),
        schedule=ScheduleConfig(sft_rounds=(workload.rounds + 1) // 2),
        evaluation=EvaluationConfig(every=1, client_models="never"),
        compute=ComputeConfig(device=workload.device, cache_folder=str(cache)),
    )


def whole_run(workload: Workload, cache: Path, output: Path) -> dict[str, Any]:
    """A run into a folder; the content of its summary."""
    return run_experiment(experiment_of(workload, cache), output).to_dict()


class Ours:
    """A prepared two-round experiment, round 1 SFT and round 2 RL, whose parts can be timed.

    Args:
        workload: What to run.
        cache: Cache folder of activations.
        sft_epochs: Local epochs of round 1.
    """

    def __init__(self, workload: Workload, cache: Path, *, sft_epochs: int = 2) -> None:
        self.experiment = experiment_of(workload.scaled(rounds=2), cache, sft_epochs=sft_epochs)
        self.prepared = prepare(self.experiment, RunObserver())
        self.method = self.prepared.method
        self.start = self.method.init_server()

    @cached_property
    def payload(self) -> Payload:
        """The broadcast of round 1."""
        return self.method.broadcast(self.start)

    @cached_property
    def rl_payload(self) -> Payload:
        """The broadcast of round 2."""
        return self.method.broadcast(self.after_sft)

    @cached_property
    def updates(self) -> list[Update]:
        """The clients' updates of round 1."""
        return self.local("sft")

    @cached_property
    def after_sft(self) -> ServerState:
        """The server after round 1."""
        return self.server()

    def local(self, stage: Literal["sft", "rl"]) -> list[Update]:
        """Every client's local training and uplink in a round of this stage."""
        payload = self.payload if stage == "sft" else self.rl_payload
        clients, size = self.prepared.clients, self.method.clients_together
        groups = [clients[start : start + size] for start in range(0, len(clients), size)]
        return [
            update for group in groups for update in self.method.client_updates(payload, group, [{} for _ in group])
        ]

    def server(self) -> ServerState:
        """Averaging and text training on the updates of round 1."""
        return server_step(self.method, self.start, self.updates).state

    def repeat_uploads(self, times: int) -> None:
        """Repeat every uploaded embedding of round 1."""
        self.updates = [
            replace(
                update,
                num_images=times * update.num_images,
                samples={name: rows.repeat_interleave(times, dim=0) for name, rows in update.samples.items()},
            )
            for update in self.updates
        ]

    def evaluate(self) -> dict[str, float]:
        """An evaluation round: the global model on base and novel, each client's on its share."""
        models = {update.client: self.method.classifier(self.start, update) for update in self.updates}
        local = [accuracy(hits) for hits in share_hits(models, self.prepared.sets).values()]
        scores = score_global(self.method.classifier(self.after_sft), self.prepared.sets, sum(local) / len(local))
        return {"local": scores.local, "base": scores.base, "novel": scores.novel}

    def prefix(self, pixels: torch.Tensor) -> torch.Tensor:
        """The frozen blocks on preprocessed images."""
        return self.method.clip.image.prefix(pixels, self.method.first_image_block)


def prefix_flops(shape_name: str) -> float:
    """Floating-point operations per image that the frozen blocks need: all but the last two."""
    shape = SHAPES[shape_name]
    width, blocks, _, inner = shape.image
    tokens = shape.tokens
    patches = 2 * (tokens - 1) * width * 3 * shape.patch**2
    block = tokens * (8 * width**2 + 4 * width * inner) + 4 * tokens**2 * width
    return float(patches + (blocks - 2) * block)


def suffix_step_flops(shape_name: str) -> float:
    """Floating-point operations per image that an SFT step needs behind the frozen blocks, forward and backward.

    Only the class token leaves the last block, so there one row asks, and no key or value of another is needed.
    Frozen weights need no gradient, and nothing below the first adapted block does; LoRA's own are left out.
    """
    shape = SHAPES[shape_name]
    width, _, _, inner = shape.image
    tokens = shape.tokens
    first = tokens * (8 * width**2 + 4 * width * inner) + 4 * tokens**2 * width
    heads = shape.image[2]
    last = 8 * width**2 + 4 * heads * tokens * width + 4 * width * inner
    last_backward = last + 4 * heads * tokens * width
    first_backward = tokens * (2 * width**2 + 4 * width * inner) + 8 * tokens**2 * width
    return float(first + last + last_backward + first_backward)
