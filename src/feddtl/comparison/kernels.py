"""One choice of kernels for all cells of a comparison: on a busy machine, each might measure another as the fastest."""

from __future__ import annotations

from collections.abc import Iterable

from feddtl.comparison.cells import Cell
from feddtl.errors import RunError
from feddtl.models.kernels import Kernels, names_of
from feddtl.run_files import has_run
from feddtl.runs import RunFolder


def shared_kernels(cell: Cell, others: Iterable[Cell]) -> Kernels | None:
    """The kernels of the first of the others that has begun and may share them; None if the cell is the first."""
    return next((kernels for other in others if _alike(cell, other) and (kernels := begun_with(other))), None)


def different_kernels(cells: Iterable[Cell]) -> str:
    """A sentence that names cells whose kernels differ although they could be the same; empty if there are none."""
    first: dict[tuple[str, ...], tuple[Cell, Kernels]] = {}
    for cell in cells:
        if (kernels := begun_with(cell)) is None:
            continue
        other, chosen = first.setdefault(_shared_settings(cell), (cell, kernels))
        if chosen != kernels:
            here, there = ("/".join(names_of(each).values()) for each in (kernels, chosen))
            return (
                f"{cell.folder.name} computes in {here}, {other.folder.name} in {there}: their numbers also differ by "
                "rounding. Delete the folder of one of them to run it again, or set compute.precision and "
                "compute.attention."
            )
    return ""


def begun_with(cell: Cell) -> Kernels | None:
    """The kernels of a cell that trains and has begun; None if its folder does not say."""
    if not cell.experiment.trains or not has_run(cell.folder):
        return None
    folder = RunFolder.find(cell.folder)
    try:
        return folder.kernels if folder.has_begun else None
    except RunError:  # the cell itself reports a folder that cannot be read
        return None


def _alike(cell: Cell, other: Cell) -> bool:
    return cell != other and cell.experiment.trains and _shared_settings(cell) == _shared_settings(other)


def _shared_settings(cell: Cell) -> tuple[str, ...]:
    """What must be equal for two cells to have the same kernels."""
    compute = cell.experiment.compute
    return cell.experiment.model_name, compute.device, compute.precision, compute.attention
