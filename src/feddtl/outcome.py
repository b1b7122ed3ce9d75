"""The files of a finished run: what was trained, its curves, and the summary."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from feddtl.config import Experiment, SystemConfig
from feddtl.curves import write_curves
from feddtl.evaluate import Scores
from feddtl.methods.base import Method
from feddtl.records import Summary
from feddtl.runs import RunFolder
from feddtl.runtimes.rounds import Progress


def write_outcome(
    folder: RunFolder, method: Method, progress: Progress, summary: Summary, draw: Callable[..., None]
) -> None:
    """Write what was trained, the curves and, last, the summary: a folder with a summary is a finished run."""
    adapters = method.adapters(progress.state)
    folder.write_adapters(adapters, summary.model)
    if not adapters:
        metadata = {key: str(getattr(summary, key)) for key in ("method", "model", "rounds")}
        folder.write_tensors(method.trained_tensors(progress.state), progress.personal, metadata)
    if progress.records:
        draw(folder.path)
    folder.write_summary(summary)


def curves_of(
    experiment: Experiment, folder: RunFolder, progress: Progress, zero_shot: Scores, summary: Summary
) -> Callable[..., None]:
    """Draws the curves of a finished run into a folder; see `write_curves`."""
    title = f"{summary.method} on {summary.dataset}, {summary.regime}, {summary.partition}"
    return partial(
        write_curves,
        data=folder.data,
        progress=progress,
        zero_shot=zero_shot,
        title=title + (f", {summary.scored}" if summary.scored_on == "held-back" else ""),
        over_time=experiment.system != SystemConfig(),
    )
