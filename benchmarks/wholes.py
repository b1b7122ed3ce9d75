"""Whole runs: the few-shot run against the reference, growth, the demo, and the run on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.comparisons import describe
from benchmarks.context import Bench
from benchmarks.measure import ROOT, Row, git, run_child, seconds, speedup
from benchmarks.opponent import Opponent, defaults
from benchmarks.ours import whole_run
from benchmarks.reference_parts import Roles
from benchmarks.workload import Workload

# Above this number of seconds the reference's whole run is estimated from a round of each stage.
MAX_REFERENCE_SECONDS = 1200.0
DEMO_BEFORE = "679b549"
DEMO = "experiments/quickstart.toml"


def run(bench: Bench) -> list[Row]:
    """The whole few-shot run with a cold cache, each side in a fresh process: seconds and peak memory."""
    workload = bench.workload
    one, kind = reference_estimate(workload, bench.opponent)
    in_full = bench.full_reference if bench.full_reference is not None else one["wall"] <= MAX_REFERENCE_SECONDS
    ours, theirs = [], []
    for _ in range(bench.run_repeats):
        ours.append(our_run(workload))
        theirs.append(reference_run(workload, bench.opponent) if in_full else one)
    note = f"{describe(bench.opponent.image)}; {'every round run' if in_full else kind}"
    samples = {"ours": ours, "reference": theirs}
    walls = [[report["wall"] for report in side] for side in (ours, theirs)]
    rows = [_with(speedup("Whole few-shot run, cold cache", walls[0], walls[1], 8, note), samples)]
    plain, kind = reference_estimate(workload, defaults(workload.device))
    rows.append(_with(_printed("left at its defaults, fp32 and sdpa", walls[0], plain, kind), {"reference": plain}))
    once, kind = reference_estimate(workload, bench.opponent, "once")
    words = "with roll-outs and reference once a round"
    rows.append(_with(_printed(words, walls[0], once, kind), {"reference": once}))
    return [*rows, _memory(ours, theirs), _memory_default(ours, plain)]


def our_run(workload: Workload) -> dict[str, Any]:
    """feddtl in a fresh process with an empty cache."""
    return run_child("benchmarks.child", ["ours", json.dumps(asdict(workload))])


def reference_run(workload: Workload, opponent: Opponent) -> dict[str, Any]:
    """The reference in a fresh process, every round."""
    options = json.dumps(opponent.child_options())
    return run_child("benchmarks.child", ["reference", json.dumps(asdict(workload)), options])


def reference_estimate(workload: Workload, opponent: Opponent, roles: Roles = "per-role") -> tuple[dict[str, Any], str]:
    """A report whose `wall` is measured for one round of each stage and extrapolated to all rounds."""
    options = opponent.child_options(roles, one_round_each=True)
    report = run_child("benchmarks.child", ["reference", json.dumps(asdict(workload)), json.dumps(options)])
    sft_rounds = (workload.rounds + 1) // 2
    sft, rl = report["rounds"]
    missing = (sft_rounds - 1) * sft + (workload.rounds - sft_rounds - 1) * rl
    kind = f"an estimate: one SFT round ({sft:.1f} s) and one RL round ({rl:.1f} s) run, times {workload.rounds // 2}"
    return {**report, "wall": report["wall"] + missing, "estimate": True}, kind


def _printed(against: str, ours: list[float], report: Mapping[str, Any], note: str) -> Row:
    return speedup(f"The same run, against the reference {against}", ours, [report["wall"]], None, note)


def _with(row: Row, samples: Mapping[str, Any]) -> Row:
    return Row(**{**vars(row), "samples": dict(samples)})


def _memory(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> Row:
    mine, other = (median(report["peak_bytes"] for report in side) for side in (ours, theirs))
    return Row("Peak memory of that run", "below", mine, other, other / mine, mine < other, "bytes")


def _memory_default(ours: list[dict[str, Any]], plain: Mapping[str, Any]) -> Row:
    mine, other = median(report["peak_bytes"] for report in ours), float(plain["peak_bytes"])
    return Row("Peak memory, against the reference at its defaults", "", mine, other, other / mine, None, "bytes")


def growth(bench: Bench) -> list[Row]:
    """Cold two-round runs of feddtl at twice the images, classes and clients; twice the time is linear."""
    # A quarter of the images of the other measures: all of them take an hour on a machine without fast bfloat16.
    share = 1 if bench.quick else 4
    base = bench.workload.scaled(rounds=2, shots=bench.workload.shots // share, tests=bench.workload.tests // share)
    # At the same number of shots, twice the classes also means twice the images.
    variants = {
        "images": base.scaled(shots=2 * base.shots, tests=2 * base.tests),
        "classes": base.scaled(classes=2 * base.classes),
        "clients, same images": base.scaled(clients=2 * base.clients),
    }
    for workload in (base, *variants.values()):
        _ = workload.model, workload.images
    _cold_run(base)
    samples: dict[str, list[float]] = {name: [] for name in ("base", *variants)}
    for _ in range(bench.repeats):
        for name, workload in {"base": base, **variants}.items():
            samples[name].append(_cold_run(workload))
    before = median(samples["base"])
    return [
        Row(
            f"Growth: twice the {name}",
            "≤ 2×",
            median(samples[name]),
            before,
            median(samples[name]) / before,
            median(samples[name]) / before <= 2,
            note="ratio of our own seconds, loading included; reference: before doubling",
            samples={"doubled": samples[name], "before": samples["base"]},
        )
        for name in variants
    ]


def _cold_run(workload: Workload) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return seconds(lambda: whole_run(workload, Path(folder) / "cache", Path(folder) / "run"))


def demo(bench: Bench) -> list[Row]:
    """The run of `make demo`, cold and warm, and that of an earlier commit, in turn."""
    samples: dict[str, list[float]] = {"cold": [], "warm": [], "before": []}
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "before"
        git("worktree", "add", "--detach", str(old), DEMO_BEFORE)
        try:
            for index in range(bench.repeats):
                cache = Path(folder) / f"cache-{index}"
                samples["before"].append(_demo(old, cache))
                samples["cold"].append(_demo(ROOT, cache))
                samples["warm"].append(_demo(ROOT, cache))
        finally:
            git("worktree", "remove", "--force", str(old))
    note = f"reference: this project at {DEMO_BEFORE}"
    return [
        speedup("The demo's run, cold cache", samples["cold"], samples["before"], 2, note),
        speedup("The demo's run, warm cache", samples["warm"], samples["before"], None, note),
    ]


def _demo(root: Path, cache: Path) -> float:
    environment = {**os.environ, "FEDDTL_CACHE": str(cache), "PYTHONPATH": str(root / "src")}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "feddtl", "run", DEMO, "--output", str(Path(folder) / "run")]
        return seconds(lambda: subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True))


def gpu(bench: Bench) -> list[Row]:
    """A whole few-shot run of CIFAR-100's sizes, with evaluation every round, by model shape; less than a minute."""
    rows = []
    for shape in ("tiny",) if bench.quick else ("vit-b-16", "vit-l-14"):
        workload = bench.workload.scaled(shape=shape, side=32)
        if not bench.quick:
            workload = workload.scaled(classes=100, shots=16, tests=100, rounds=20, clients=5)
        _ = workload.model, workload.images
        ours = [our_run(workload) for _ in range(bench.run_repeats)]
        theirs, kind = reference_estimate(workload, bench.opponent)
        wall = median(report["wall"] for report in ours)
        first = shape != "vit-l-14"
        rows.append(
            Row(
                f"CIFAR-100-shaped run on {workload.device}, {shape}",
                "< 60 s" if first else "",
                wall,
                theirs["wall"],
                theirs["wall"] / wall,
                wall < 60 if first else None,
                note=f"{describe(bench.opponent.image)}; {kind}",
                samples={"ours": ours, "reference": theirs},
            )
        )
    return rows
