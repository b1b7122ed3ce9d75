"""One model behind each `model` of a comparison: the folder, or the Hub's model, may change between two cells."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from feddtl.comparison.cells import Cell
from feddtl.errors import RunError
from feddtl.run_origin import different_parts, recorded_model


def with_the_same_model(cell: Cell, others: Iterable[Cell]) -> Path | None:
    """The folder of the first of the others that has begun with the model of a cell; None if there is none."""
    asked = cell.experiment.model
    return next(
        (
            other.folder
            for other in others
            if other != cell and other.experiment.model == asked and recorded_model(other.folder)
        ),
        None,
    )


def require_one_model(cell: Cell, others: Iterable[Cell]) -> None:
    """Raise RunError if a cell that began was made from another model than the others with the same `model`."""
    other = with_the_same_model(cell, others)
    mine = recorded_model(cell.folder)
    if other is None or not mine:
        return
    if different := different_parts(recorded_model(other), mine):
        raise RunError(
            f"{other} and {cell.folder} were made from different models, both named {cell.experiment.model}. Other "
            f"{different}.",
            "Delete the folder of the one whose model is not meant, to run it again, or name the models differently.",
        )
