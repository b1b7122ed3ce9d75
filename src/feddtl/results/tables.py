"""Tables as text cells, the same for Markdown, LaTeX, the terminal and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from feddtl.results.statistics import Spread
from feddtl.units import percent

NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """Heading of a column; adjacent columns with the same `group` share the heading of the group."""

    heading: str
    group: str = ""

    @property
    def text(self) -> str:
        """Both in one text."""
        return f"{self.group}: {self.heading}" if self.group else self.heading


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a value, its spread, and whether it is the best of its column."""

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
        columns: Headings, without that of the labels.
        rows: A label, and a cell for each column.
        notes: Below the table.
        corner: Heading of the labels.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    notes: tuple[str, ...] = ()
    corner: str = ""


def score_cells(spreads: Sequence[Spread], competing: Sequence[bool] | None = None) -> list[Cell]:
    """A column of scores; the best are all that equal the highest mean as printed.

    Args:
        spreads: One for each row of the table.
        competing: Which rows can be the best; None for all.
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
