"""accuracy.svg and accuracy_over_time.svg of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from feddtl.evaluate import Scores
from feddtl.plots import accuracy_curves
from feddtl.runtimes.federated import scored_by_clients
from feddtl.runtimes.rounds import Progress
from feddtl.runtimes.same_clients import over_same_clients
from feddtl.units import ClientNames


def write_curves(
    folder: Path,
    data: Mapping[str, Any],
    progress: Progress,
    zero_shot: Scores,
    title: str,
    *,
    over_time: bool,
    ending: str = ".svg",
) -> None:
    """Plots of a finished run; where the clients alone have test images, over the same clients in all rounds.

    Args:
        folder: Where they are written.
        data: The content of data.json.
        progress: After the last round.
        zero_shot: Scores before training.
        title: Above the plots.
        over_time: Whether accuracy is also drawn by virtual time.
        ending: The format.
    """
    records, levels = progress.records, zero_shot.as_dict()
    images = {half: data[f"test_{half}_images"] or 0 for half in ("base", "novel")}
    numbers = [0, *(record.round for record in records)]
    history = {number: found for number, found in zip(numbers, scored_by_clients(progress), strict=True) if found}
    same = over_same_clients([history], ClientNames(tuple(data.get("sites", ()))))
    if same:
        records = tuple(map(same.record, records))
        levels |= same.scores(history[0]).scores if 0 in history else {}
    for found in history.values():
        scored = same.scores(found) if same else found
        images = {"base": max(images["base"], scored.base_images), "novel": max(images["novel"], scored.novel_images)}
    caption, hollow = (same.caption, () if same.clients else same.incomplete) if same else ("", ())
    draw = partial(accuracy_curves, records, levels, title, images=images, caption=caption, hollow=hollow)
    draw(folder / f"accuracy{ending}")
    if over_time:
        draw(folder / f"accuracy_over_time{ending}", virtual_time=True)
