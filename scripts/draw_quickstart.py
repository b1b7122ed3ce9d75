"""Draw docs/images/quickstart.svg: accuracy by round of the quickstart with FedDTL and with FedLoRA, seed 0.

Run: python scripts/draw_quickstart.py RUN_OF_FEDDTL RUN_OF_FEDLORA docs/images/quickstart.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from feddtl.methods.catalog import METHODS
from feddtl.results.reading import read_run
from feddtl.results.run import RunResult

COLOURS = {"feddtl": "tab:blue", "fedlora": "tab:orange"}
PANELS = {"base": "Base: the shapes of the clients", "novel": "Novel: shapes that no client has"}


def draw(runs: Sequence[RunResult]) -> Figure:
    """One panel for base and one for novel accuracy, both from 0 to 80 %.

    Args:
        runs: Finished runs on the same images, each of another method in `COLOURS`.
    """
    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, 2, sharey=True), PANELS.items(), strict=True):
        _curves(axes, runs, key)
        axes.set(xlabel="round", title=title, ylim=(0, 80))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy in %")
    lines, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def _curves(axes: Axes, runs: Sequence[RunResult], key: str) -> None:
    """One curve for each run, from zero-shot on; zero-shot as a dashed line, RL rounds shaded."""
    [zero_shot] = {_known(run.finished.zero_shot[key], key) for run in runs}
    for run in runs:
        scored = [record for record in run.records if record.is_scored]
        values = [zero_shot, *(_known(record.headline[key], key) for record in scored)]
        method = run.experiment.method
        title = METHODS[method].title
        axes.plot([0, *(r.round for r in scored)], values, color=COLOURS[method], marker="o", markersize=3, label=title)
        rl = [record.round for record in run.records if record.stage == "rl"]
        if rl:
            axes.axvspan(rl[0] - 0.5, rl[-1] + 0.5, color="0.93", zorder=0, label=f"RL rounds of {title}")
    axes.axhline(zero_shot, color="0.4", linestyle="--", linewidth=1, label="zero-shot")


def _known(accuracy: float | None, key: str) -> float:
    if accuracy is None:
        raise SystemExit(f"error: A run has no {key} accuracy.\n  Draw runs with base and novel classes.")
    return accuracy


def main() -> None:
    """Read the runs, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs=2, help="run folders")
    parser.add_argument("picture", type=Path, help="SVG file to write")
    options = parser.parse_args()
    figure = draw([read_run(folder, folder.name)[0] for folder in options.runs])
    # No date and no random identifiers, so that equal numbers give an equal file.
    with rc_context({"svg.hashsalt": "feddtl"}):
        figure.savefig(options.picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
