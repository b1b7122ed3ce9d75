"""One whole run in a separate process: `python -m benchmarks.child ours|reference …`; prints a JSON line at its end."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import peak_memory
from benchmarks.workload import Workload


def ours(workload: Workload) -> dict[str, Any]:
    """feddtl with an empty cache."""
    from benchmarks.ours import whole_run

    with tempfile.TemporaryDirectory() as folder:
        summary = whole_run(workload, Path(folder) / "cache", Path(folder) / "run")
    return {"scores": summary["final"], "phases": summary.get("seconds_by_phase")}


def reference(workload: Workload, options: dict[str, Any]) -> dict[str, Any]:
    """The reference loop; with `one_round_each` only one round of each stage, for an estimate."""
    from benchmarks.reference_loop import ReferenceLoop
    from benchmarks.reference_parts import Compute, Settings
    from benchmarks.workload import load_federation

    begun = time.perf_counter()
    estimate = options["one_round_each"]
    rounds = 2 if estimate else workload.rounds
    settings = Settings(rounds=rounds, sft_rounds=(rounds + 1) // 2, roles=options["roles"])
    image, text = Compute(**options["image"]), Compute(**options["text"])
    loop = ReferenceLoop(workload.model, load_federation(workload), settings, image, text)
    loading = time.perf_counter() - begun
    _, records = loop.run()
    final = {name: records[-1][name] for name in ("local", "base", "novel")}
    return {"scores": final, "loading": loading, "rounds": [record["seconds"] for record in records]}


def main() -> None:
    """Run one side and print its report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("ours", "reference"))
    parser.add_argument("workload", help="JSON of a Workload")
    parser.add_argument("options", nargs="?", default="{}", help="JSON: image, text, roles, one_round_each")
    arguments = parser.parse_args()
    workload = Workload(**json.loads(arguments.workload))
    begun = time.perf_counter()
    options = json.loads(arguments.options)
    report = ours(workload) if arguments.side == "ours" else reference(workload, options)
    inside = time.perf_counter() - begun
    print(json.dumps({**report, "seconds": inside, "peak_bytes": peak_memory()}))


if __name__ == "__main__":
    main()
