"""Tables as CSV that a spreadsheet reads and does not obey."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_lines(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, header: bool = True) -> str:
    """A line with the names of the columns, and one for each row; what is in no column is left out.

    Args:
        columns: Names of the columns.
        rows: Values by column.
        header: Whether there is the first line; False for rows that follow others.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    if header:
        writer.writeheader()
    writer.writerows({key: _inert(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _inert(value: Any) -> Any:
    """A value that a spreadsheet does not take for a formula: a text that begins like one gets an apostrophe."""
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(FORMULA) else "") + value.replace("\r", " ")
