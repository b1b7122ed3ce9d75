"""Parts of a round, both sides in one process and in turn, with everything warm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Literal, get_args

import torch
from torch.nn.functional import normalize

from benchmarks.context import Bench
from benchmarks.measure import MATMULS, Row, alternate, matmul_peak, speedup
from benchmarks.opponent import Opponent, best_text
from benchmarks.ours import Ours, prefix_flops, suffix_step_flops
from benchmarks.reference_loop import ReferenceLoop
from benchmarks.reference_parts import Compute, Federation, Images, Roles
from benchmarks.workload import SHAPES, Workload, class_names, load_federation, prompts

# SFT epochs of the longer of two rounds; their difference contains no upload and no other fixed cost of a round.
MANY = 4
RL_EPOCHS = 3
RL_TARGETS: dict[Roles, float | None] = {"per-role": 12, "per-sample": 20, "once": None}
TEXT_SHOTS = 16
PREFIX_BATCH = 64


def describe(compute: Compute) -> str:
    """The reference's settings in words."""
    return f"reference: {compute.precision}, {compute.attention}"


def local(bench: Bench) -> list[Row]:
    """All clients' local training in an SFT and in an RL round."""
    short, long = (Ours(bench.workload, bench.scratch / "cache", sft_epochs=epochs) for epochs in (1, MANY))
    opponent = bench.opponent
    loop = opponent.loop(bench.workload, load_federation(bench.workload))
    sides = {
        "ours 1": lambda: short.local("sft"),
        "reference 1": reference_local(loop, "sft", sft_epochs=1),
        "ours many": lambda: long.local("sft"),
        "reference many": reference_local(loop, "sft", sft_epochs=MANY),
    }
    note = describe(opponent.image)
    return [*_sft_rows(alternate(sides, bench.repeats), note), *_rl_rows(bench, short, loop, note)]


def _sft_rows(samples: dict[str, list[float]], note: str) -> list[Row]:
    epoch, whole = {}, {}
    for side in ("ours", "reference"):
        pairs = list(zip(samples[f"{side} 1"], samples[f"{side} many"], strict=True))
        epoch[side] = [(many - one) / (MANY - 1) for one, many in pairs]
        whole[side] = [one + extra for one, extra in zip(samples[f"{side} 1"], epoch[side], strict=True)]
    return [
        speedup("SFT local epoch, all clients", epoch["ours"], epoch["reference"], 6, note),
        speedup("SFT local round: 2 epochs and the upload", whole["ours"], whole["reference"], None, note),
    ]


def _rl_rows(bench: Bench, ours: Ours, loop: ReferenceLoop, note: str) -> list[Row]:
    """A third of a local RL round: 3 epochs with roll-outs, reference and upload, on both sides."""
    modes = {roles: reference_local(loop, "rl", roles=roles) for roles in get_args(Roles)}
    ours.local("rl")
    samples = alternate({"ours": lambda: ours.local("rl"), **modes}, bench.repeats, warm_up=bench.quick)
    per_epoch = {name: [value / RL_EPOCHS for value in values] for name, values in samples.items()}
    words = {
        "per-role": "one forward per role",
        "per-sample": "G sampling forwards",
        "once": "roll-outs and reference once a round",
    }
    return [
        speedup(f"RL local epoch, against {words[roles]}", per_epoch["ours"], per_epoch[roles], target, note)
        for roles, target in RL_TARGETS.items()
    ]


def reference_local(loop: ReferenceLoop, stage: Literal["sft", "rl"], **changes: object) -> Callable[[], object]:
    """All clients' local training in a round of this stage, with some settings changed."""
    state = loop.start()
    text = loop.broadcast(state)
    settings = replace(loop.settings, **changes)  # type: ignore[arg-type]

    def work() -> object:
        loop.client.settings = settings
        return loop.local(state, text, 1 if stage == "sft" else 2)

    return work


def evaluation(bench: Bench) -> list[Row]:
    """Global model on base and novel test images, every client's model on its share."""
    ours = Ours(bench.workload, bench.scratch / "cache")
    ours.evaluate()
    loop = bench.opponent.loop(bench.workload, load_federation(bench.workload))
    state = loop.start()
    text, own = loop.broadcast(state), [state.image] * bench.workload.clients
    sides = {"ours": ours.evaluate, "reference": lambda: loop.evaluate(state, own, text)}
    samples = alternate(sides, bench.repeats)
    note = describe(bench.opponent.image)
    return [speedup("Evaluation round", samples["ours"], samples["reference"], 8, note)]


def text(bench: Bench) -> list[Row]:
    """A round of the server: averaging and text training on 16 embeddings of each of 100 classes."""
    classes = 4 if bench.quick else 100
    # One image per class is encoded; its embedding is repeated for the others.
    workload = bench.workload.scaled(classes=2 * classes, shots=1, tests=1)
    ours = Ours(workload, bench.scratch / "cache")
    ours.repeat_uploads(TEXT_SHOTS)
    trials: dict[str, float] = {}
    longest = best_text(workload, classes, "longest", trials)
    padded = best_text(workload, classes, "max_length", trials)
    loops = {name: _text_loop(workload, compute, classes) for name, compute in (("longest", longest), ("77", padded))}
    samples = alternate({"ours": ours.server, **loops}, bench.repeats)
    name = f"Server text training, {classes} classes, against prompts padded to"
    rows = [
        speedup(f"{name} the longest", samples["ours"], samples["longest"], 6, describe(longest)),
        speedup(f"{name} 77 tokens", samples["ours"], samples["77"], None, describe(padded)),
    ]
    return [replace(row, samples={**row.samples, "trials": trials}) for row in rows]


def _text_loop(workload: Workload, compute: Compute, classes: int) -> Callable[[], object]:
    """The reference's averaging and text training; it needs embeddings and no image."""
    count, joint = TEXT_SHOTS * classes, SHAPES[workload.shape].joint
    labels = torch.arange(classes).repeat_interleave(TEXT_SHOTS)
    parts = torch.split(labels, -(-count // workload.clients))
    nothing = Images(torch.empty(0, 0), torch.empty(0, dtype=torch.long))
    clients = [Images(torch.empty(len(part), 0), part) for part in parts]
    names = prompts(class_names(2 * classes)[:classes])
    federation = Federation(clients, nothing, nothing, [], names, names)
    loop = Opponent(Compute(device=workload.device), compute, {}).loop(workload, federation)
    state = loop.start()
    generator = torch.Generator().manual_seed(0)
    results = [
        (state.image, normalize(torch.randn(len(part), joint, generator=generator), dim=-1).to(compute.device), 0.0)
        for part in parts
    ]
    return lambda: loop.aggregate(state, results, 1)


def share(bench: Bench) -> list[Row]:
    """How much of the measured matrix-multiply peak the frozen blocks and the training steps reach."""
    peaks = matmul_peak(bench.workload.device, *((0.01, MATMULS[-2:-1]) if bench.quick else ()))
    best = max(peaks.values())
    short, long = (Ours(bench.workload, bench.scratch / "cache", sft_epochs=epochs) for epochs in (1, MANY))
    pixels = torch.randn(PREFIX_BATCH, 3, *[SHAPES[bench.workload.shape].side] * 2).to(bench.workload.device)
    sides = {
        "prefix": lambda: short.prefix(pixels),
        "one": lambda: short.local("sft"),
        "many": lambda: long.local("sft"),
    }
    samples = alternate(sides, bench.repeats)
    images = sum(len(client) for client in short.prepared.clients)
    prefix = median(samples["prefix"]) / PREFIX_BATCH
    pairs = zip(samples["one"], samples["many"], strict=True)
    step = median((many - one) / (MANY - 1) / images for one, many in pairs)
    note = "needed operations only; peak: " + ", ".join(f"{name} {value / 1e12:.2f}" for name, value in peaks.items())
    lines = (
        ("Share of the matmul peak, frozen blocks", prefix_flops(bench.workload.shape) / prefix, 0.5),
        ("Share of the matmul peak, SFT step", suffix_step_flops(bench.workload.shape) / step, None),
    )
    return [
        Row(
            name,
            "" if target is None else f"≥ {target:g}",
            reached,
            best,
            reached / best,
            None if target is None else reached / best >= target,
            "FLOP/s",
            note + " TFLOP/s",
            {**samples, "peaks": peaks},
        )
        for name, reached, target in lines
    ]
