"""Run experiment files over seeds, collect their summaries into one JSON file, print a Markdown table.

    python scripts/run_table.py results/ablation_shapes_full.json experiments/ablation/shapes_full_*.toml \\
        --seeds 0 1 2 -- --evaluation.every 5

Whatever follows `--` is passed to every run. A run whose folder is there already is resumed, or only read when it is
finished; `feddtl` refuses that if the folder is of another experiment or of other flags.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

COLUMNS = (("local", "Local"), ("base", "Base"), ("novel", "Novel"), ("harmonic_mean", "HM"))


def run(experiment: Path, seed: int, runs: Path, flags: list[str]) -> dict[str, Any]:
    """Summary of one run, which is started, resumed or found finished."""
    folder = runs / f"{experiment.stem}-seed{seed}"
    where = "--resume" if (folder / "config.json").is_file() else "--output"
    command = [sys.executable, "-m", "feddtl", "run", str(experiment), "--seed", str(seed), *flags, where, str(folder)]
    subprocess.run(command, check=True)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary | {"experiment": str(experiment), "flags": flags}


def cell(values: list[float]) -> str:
    """Mean ± standard deviation over seeds."""
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


def table(summaries: list[dict[str, Any]]) -> str:
    """Markdown: a row per experiment, zero-shot first; last-round numbers."""
    lines = ["| | " + " | ".join(title for _, title in COLUMNS) + " | seconds | MB up | MB down |"]
    lines.append("|---|" + "---:|" * (len(COLUMNS) + 3))
    zero_shot = [summary["zero_shot"] for summary in summaries]
    lines.append(
        "| zero-shot | " + " | ".join(cell([row[key] for row in zero_shot]) for key, _ in COLUMNS) + " | | | |"
    )
    for experiment in dict.fromkeys(summary["experiment"] for summary in summaries):
        runs = [summary for summary in summaries if summary["experiment"] == experiment]
        scores = [cell([summary["final"][key] for summary in runs]) for key, _ in COLUMNS]
        costs = [f"{mean([summary['seconds'] for summary in runs]):.0f}"]
        costs += [f"{mean([summary[key] for summary in runs]) / 1e6:.1f}" for key in ("bytes_up", "bytes_down")]
        lines.append(f"| {Path(experiment).stem} | " + " | ".join(scores + costs) + " |")
    return "\n".join(lines)


def main() -> None:
    """Parse, run, write, print."""
    words = sys.argv[1:]
    flags = words[words.index("--") + 1 :] if "--" in words else []
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON file to write")
    parser.add_argument("experiments", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run folders")
    arguments = parser.parse_args(words[: words.index("--")] if "--" in words else words)
    summaries = [
        run(experiment, seed, arguments.runs, flags) for seed in arguments.seeds for experiment in arguments.experiments
    ]
    environment = json.loads(
        (arguments.runs / f"{arguments.experiments[0].stem}-seed{arguments.seeds[0]}" / "environment.json").read_text()
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"environment": environment, "runs": summaries}, indent=1) + "\n")
    print(table(summaries))


if __name__ == "__main__":
    main()
