"""Timing, memory, the machine, and the result file."""

from __future__ import annotations

import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from feddtl.models.kernel_choice import bfloat16_is_hopeless

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("feddtl", "torch", "transformers", "peft", "numpy", "pillow")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "amx_tile")
# Rows, inner, columns: the products of ViT-B and ViT-L blocks at common batches, and two squares.
MATMULS = ((6304, 768, 3072), (6304, 3072, 768), (12608, 768, 768), (8224, 1024, 4096), (2048,) * 3, (4096,) * 3)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: What is measured; a later measurement replaces the line of this name in the result file.
        target: In words; empty if there is none.
        ours: Seconds, bytes, or what `unit` says.
        reference: The opponent's, or feddtl's own before a change.
        ratio: Compared with the target.
        met: Whether the target is reached; None if there is none.
        unit: Of `ours` and `reference`.
        note: For readers: the opponent's settings, or that a value is estimated.
        samples: All measurements.
    """

    name: str
    target: str = ""
    ours: float | None = None
    reference: float | None = None
    ratio: float | None = None
    met: bool | None = None
    unit: str = "s"
    note: str = ""
    samples: Mapping[str, Any] = field(default_factory=dict)


def speedup(
    name: str, ours: Sequence[float], reference: Sequence[float], at_least: float | None = None, note: str = ""
) -> Row:
    """Line with the ratio of medians, reference to ours."""
    ratio = median(reference) / median(ours)
    return Row(
        name,
        "" if at_least is None else f"≥ {at_least:g}×",
        median(ours),
        median(reference),
        ratio,
        None if at_least is None else ratio >= at_least,
        note=note,
        samples={"ours": list(ours), "reference": list(reference)},
    )


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of a call, including queued work of a GPU."""
    gc.collect()
    _synchronize()
    begun = time.perf_counter()
    work()
    _synchronize()
    return time.perf_counter() - begun


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def alternate(
    sides: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds by side, measured in turn, so that a slow minute of the machine affects all sides.

    Args:
        sides: Functions to time, by name.
        repeats: Measurements of each.
        warm_up: Run each once before, without timing it.
    """
    for work in sides.values() if warm_up else ():
        work()
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, work in sides.items():
            samples[name].append(seconds(work))
    return samples


def run_child(module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a module in a new process; the JSON in its last line, and `wall`, the seconds from start to exit."""
    command = [sys.executable, "-m", module, *arguments]
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **(environment or {})}, capture_output=True, text=True)
    wall = time.perf_counter() - begun
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**report, "wall": wall}


def peak_memory() -> int:
    """Peak resident bytes of this process.

    VmHWM rather than ru_maxrss, which includes the parent's memory at the fork.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def matmul_peak(
    device: str = "cpu", budget: float = 0.5, shapes: Sequence[tuple[int, int, int]] = MATMULS
) -> dict[str, float]:
    """Highest FLOP/s of a matrix product by dtype, over several shapes with some seconds of repeats each.

    bfloat16 is omitted on machines that are far too slow at it.
    """
    peaks = {}
    for dtype in (torch.float32,) if bfloat16_is_hopeless(torch.device(device)) else (torch.float32, torch.bfloat16):
        best = 0.0
        for rows, inner, columns in shapes:
            left = torch.randn(rows, inner, device=device).to(dtype)
            right = torch.randn(inner, columns, device=device).to(dtype)
            torch.mm(left, right)
            spent = 0.0
            while spent < budget:
                took = seconds(lambda left=left, right=right: torch.mm(left, right))  # type: ignore[misc]
                spent += took
                best = max(best, 2 * rows * inner * columns / took)
        peaks[str(dtype).removeprefix("torch.")] = best
    return peaks


def machine() -> dict[str, Any]:
    """CPU, GPU, threads and versions."""
    info = Path("/proc/cpuinfo")
    fields: dict[str, str] = {}
    for line in info.read_text(encoding="utf-8").splitlines() if info.is_file() else ():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", "").split()
    return {
        "cpu": fields.get("model name", platform.processor()),
        "cpu_family_model": f"{fields.get('cpu family', '?')}/{fields.get('model', '?')}",
        "cores": os.cpu_count(),
        "flags": [flag for flag in CPU_FLAGS if flag in flags],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "commit": git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "src") else ""),
    }


def git(*arguments: str) -> str:
    """Output of a git command in this repository; empty outside a repository."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def write_results(path: Path, rows: Sequence[Row], settings: Mapping[str, Any]) -> None:
    """Replace the lines of these names in the file; each line has its machine and settings."""
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else {}
    here = machine()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for row in rows:
        kept[row.name] = {**vars(row), "machine": here, "settings": dict(settings), "when": stamp}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": kept}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
