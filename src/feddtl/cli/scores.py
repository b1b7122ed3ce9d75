"""Accuracies on the terminal: one line, or a table."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from feddtl.records import SCORE_HEADINGS, SCORES
from feddtl.units import harmless, percent


def cell(text: str) -> Text:
    """A text for a table of the terminal, in which nothing is markup or an escape sequence."""
    return Text(harmless(text))


def scores_table(rows: Mapping[str, Mapping[str, float | None]], title: str = "") -> Table:
    """Rows of local, base, novel and harmonic mean."""
    table = Table(title=cell(title) if title else None)
    table.add_column("")
    for heading in SCORE_HEADINGS.values():
        table.add_column(heading, justify="right")
    for name, scores in rows.items():
        table.add_row(cell(name), *(percent(scores.get(key)) for key in SCORES))
    return table
