"""Accuracies on the terminal: one line, or a table."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from feddtl.records import SCORE_HEADINGS, SCORES
from feddtl.units import percent


def scores_table(rows: Mapping[str, Mapping[str, float | None]], title: str = "") -> Table:
    """Rows of local, base, novel and harmonic mean."""
    table = Table(title=title or None)
    table.add_column("")
    for heading in SCORE_HEADINGS.values():
        table.add_column(heading, justify="right")
    for name, scores in rows.items():
        table.add_row(name, *(percent(scores.get(key)) for key in SCORES))
    return table
