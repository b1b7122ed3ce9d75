"""Tables of a comparison on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from feddtl.cli.printing import print_line
from feddtl.cli.scores import cell
from feddtl.results.tables import Cell, Table
from feddtl.units import harmless

PADDING = 3  # a blank on each side of a column, and one between columns


def print_tables(console: Console, tables: Sequence[Table]) -> None:
    """Print each table and its notes, every group of columns apart and split to fit the line."""
    for table in tables:
        print_line(console, table.title, style="bold")
        for columns in parts(table, console.width):
            console.print(rich_table(table, columns))
        for note in table.notes:
            print_line(console, note, style="dim")
        console.print()


def parts(table: Table, width: int) -> Iterator[range]:
    """Neighbouring columns of one group that fit a line behind the labels; at least one in any case."""
    room = width - 1 - PADDING - max((cell_len(label) for label, _ in table.rows), default=0)
    begin, used = 0, 0
    for index, column in enumerate(table.columns):
        needed = column_width(table, index) + PADDING
        if index > begin and (used + needed > room or column.group != table.columns[begin].group):
            yield range(begin, index)
            begin, used = index, 0
        used += needed
    if table.columns:
        yield range(begin, len(table.columns))


def column_width(table: Table, index: int) -> int:
    """Width of the widest cell, or of the longest word of the heading, which may break between words."""
    cells = (cell_len(cells[index].text) for _, cells in table.rows)
    return max(*(cell_len(word) for word in table.columns[index].heading.split()), *cells)


def rich_table(table: Table, columns: range) -> RichTable:
    """Columns of one group as a table of the terminal."""
    group = table.columns[columns.start].group
    drawn = RichTable(box=box.SIMPLE_HEAD, title=cell(group) if group else None, title_justify="left")
    drawn.add_column("", no_wrap=True)
    for index in columns:
        drawn.add_column(cell(table.columns[index].heading), justify="right", min_width=column_width(table, index))
    for label, cells in table.rows:
        drawn.add_row(cell(label), *(_text(cells[index]) for index in columns))
    return drawn


def _text(found: Cell) -> Text:
    return Text(harmless(found.text), style="bold" if found.best else "")
