"""Tables as text cells, the same for Markdown, LaTeX, the terminal and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from feddtl.results.statistics import Interval, Spread
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
    """A cell of a table: a value, its spread or interval, and whether it is above every other row of its column."""

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


def score_cells(
    spreads: Sequence[Spread], intervals: Sequence[Interval | None] = (), leads: Sequence[bool] = ()
) -> list[Cell]:
    """A column of scores with their intervals, or else with their standard deviations.

    Args:
        spreads: One for each row of the table.
        intervals: The same; empty for none.
        leads: Which row is distinguishable from every other one and above it; empty for none.
    """
    none: list[Interval | None] = [None] * len(spreads)
    return [
        Cell(percent(spread.mean), interval.text if interval else spread.plus_minus, best)
        for spread, interval, best in zip(spreads, intervals or none, leads or [False] * len(spreads), strict=True)
    ]
