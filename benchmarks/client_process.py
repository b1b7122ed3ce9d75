"""Cost of one message if every message starts a process: CPU seconds by phase, and peak memory, of both sides.

`python -m benchmarks.client_process` needs flwr and writes `results/client_process.json`. Each measurement is a new
process that answers one broadcast; the activations of its images are already in the cache. CPU seconds hardly depend on
other processes of the machine. The phases are those of `benchmarks.one_message`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import machine, run_child
from benchmarks.workload import Workload

RESULTS = Path(__file__).parent / "results" / "client_process.json"
MODELS = ("tiny-clip", "vit-b-16")


def experiment_of(model: str, method: str) -> dict[str, Any]:
    """Settings of a few-shot run of five clients: 32 images a client on ViT-B/16, generated shapes on tiny-clip."""
    kernels = {"precision": "float32", "attention": "sdpa"}
    shared = {"method": method, "compute": kernels, "rounds": 2, "schedule": {"sft_rounds": 1}}
    if model == "tiny-clip":
        return {**shared, "model": model, "data": {"source": "shapes", "clients": 5}}
    workload = Workload(shape=model)
    data = {"source": str(workload.images), "clients": workload.clients, "shots": workload.shots}
    return {**shared, "model": str(workload.model), "data": data}


def report_of(side: str, experiment: dict[str, Any], broadcast: Path, folder: Path) -> dict[str, Any]:
    """A side's report from a new process."""
    environment = {"FEDDTL_CACHE": str(folder / "cache"), "FEDDTL_STATE": str(folder / "state")}
    return run_child("benchmarks.one_message", [side, json.dumps(experiment), str(broadcast)], environment)


def summarised(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of several processes."""
    names = list(dict.fromkeys(name for report in reports for name in report["cpu_seconds"]))
    seconds = {name: round(median(r["cpu_seconds"].get(name, 0.0) for r in reports), 3) for name in names}
    totals = [round(sum(report["cpu_seconds"].values()), 3) for report in reports]
    return {
        "cpu_seconds": {**seconds, "total": median(totals)},
        "peak_mb": round(median(report["peak_mb"] for report in reports)),
        "totals": totals,
    }


def measure(model: str, method: str, repeats: int) -> dict[str, Any]:
    """The first message of a client, later ones, and the server."""
    experiment = experiment_of(model, method)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broadcast = folder / "broadcast.pickle"
        report_of("server", experiment, broadcast, folder)
        first = [report_of("client", experiment, broadcast, folder)]
        clients = [report_of("client", experiment, broadcast, folder) for _ in range(repeats)]
        servers = [report_of("server", experiment, broadcast, folder) for _ in range(repeats)]
        without = [report_of("server-without-images", experiment, broadcast, folder) for _ in range(repeats)]
    sides = {"client, first message": first, "client": clients, "server": servers, "server that scores none": without}
    return {side: summarised(reports) for side, reports in sides.items()}


def main() -> None:
    """Measure models and methods, print a table and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--methods", nargs="+", default=["feddtl"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    lines = {}
    for model in options.models:
        for method in options.methods:
            for side, found in measure(model, method, options.repeats).items():
                lines[f"{model}, {method}, {side}"] = found
                shown = "  ".join(f"{name} {value:.2f}" for name, value in found["cpu_seconds"].items())
                print(f"{model}, {method}, {side}: {found['peak_mb']} MB; {shown}", flush=True)
    content = {"machine": machine(), "repeats": options.repeats, "lines": lines}
    options.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
