"""Runs on a machine that does other work too: threads that sleep while they wait, against threads that spin.

Two threads of a run wait for each other hundreds of times in a training step. If another process has the core of one,
the other spins through its whole slice of time. `feddtl` lets threads sleep; GNU OpenMP's default is to spin 300,000
times first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.context import Bench
from benchmarks.measure import ROOT, Row, alternate, speedup

SPINNING = {"GOMP_SPINCOUNT": "300000"}
RUN = ["experiments/quickstart.toml", "--data.regime", "few-shot", "--rounds", "2", "--schedule.sft-rounds", "1"]
# Kernels are fixed, so that no side measures them.
RUN += ["--compute.precision", "float32", "--compute.attention", "sdpa", "--compute.activations", "float32"]
LOOP = "while True: pass"


def busy(bench: Bench) -> list[Row]:
    """Two few-shot rounds of the quickstart with no other work, beside a busy loop, and two runs side by side."""
    conditions: dict[str, Callable[[dict[str, str]], None]] = {
        "alone": lambda environment: _runs(1, environment),
        "beside a busy loop": _beside_a_loop,
        "two side by side": lambda environment: _runs(2, environment),
    }
    rows = []
    for name, work in conditions.items():
        sides = {"ours": lambda work=work: work({}), "reference": lambda work=work: work(SPINNING)}
        samples = alternate(sides, bench.repeats, warm_up=name == "alone")
        note = "a run of two rounds from start to exit; reference: GOMP_SPINCOUNT=300000, the default of GNU OpenMP"
        rows.append(speedup(f"Busy machine: {name}", samples["ours"], samples["reference"], note=note))
    return rows


def _runs(count: int, environment: dict[str, str]) -> None:
    """Start runs together, with a thread for each core, and wait for all."""
    inherited = {name: text for name, text in os.environ.items() if name not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "feddtl", "run", *RUN, "--output", str(Path(folder) / str(number))],
                cwd=ROOT,
                env={**inherited, **environment},
                stdout=subprocess.DEVNULL,
            )
            for number in range(count)
        ]
        failed = [process for process in processes if process.wait()]
    if failed:
        raise RuntimeError(f"{len(failed)} of {count} runs failed.")


def _beside_a_loop(environment: dict[str, str]) -> None:
    with _busy_loop():
        _runs(1, environment)


@contextmanager
def _busy_loop() -> Iterator[None]:
    """Another process that never waits."""
    loop = subprocess.Popen([sys.executable, "-c", LOOP])
    time.sleep(0.5)  # its own start
    try:
        yield
    finally:
        loop.kill()
        loop.wait()
