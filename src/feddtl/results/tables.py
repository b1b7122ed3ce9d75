"""Tables as text cells, the same for Markdown, LaTeX, the terminal and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from feddtl.results.statistics import Spread
from feddtl.units import percent

NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """Head of a column; neighbours with the same `group` stand under it."""

    heading: str
    group: str = ""

    @property
    def text(self) -> str:
        """Both in one text."""
        return f"{self.group}: {self.heading}" if self.group else self.heading


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        value: What it says.
        spread: What stands behind it, in smaller letters where there are any.
        best: Whether nothing in its column is higher.
    """

    value: str
    spread: str = ""
    best: bool = False

    @property
    def text(self) -> str:
        """Value and spread in one text."""
        return f"{self.value} {self.spread}".strip()


@dataclass(frozen=True)
class Table:
    """A table whose first column labels the rows.

    Attributes:
        title: Above the table.
        columns: Heads, without that of the labels.
        rows: A label, and a cell for each column.
        notes: Below the table.
        corner: Head of the labels.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    notes: tuple[str, ...] = ()
    corner: str = ""


def score_cells(spreads: Sequence[Spread], competing: Sequence[bool] | None = None) -> list[Cell]:
    """A column of scores; the highest mean as it is printed is the best, and so is whatever equals it.

    Args:
        spreads: One for each row of the table.
        competing: Which rows can be the best; None: all.
    """
    rivals = competing or [True] * len(spreads)
    means = [spread.mean for spread, competes in zip(spreads, rivals, strict=True) if competes]
    highest = percent(max((mean for mean in means if mean is not None), default=None))
    return [
        Cell(
            percent(spread.mean),
            spread.plus_minus,
            best=competes and spread.mean is not None and percent(spread.mean) == highest,
        )
        for spread, competes in zip(spreads, rivals, strict=True)
    ]
