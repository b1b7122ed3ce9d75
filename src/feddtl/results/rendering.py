"""Tables as Markdown and as LaTeX with booktabs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from feddtl.results.tables import Cell, Column, Table
from feddtl.units import printable

# A line of text has about 80 letters in LaTeX's default class, of which the gaps between the columns take some.
LATEX_LETTERS = 65
MARKDOWN_SPECIAL = "\\`*_|<>[]~$"
ENTITY = re.compile(r"&(?=#?\w+;)")
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "≈": r"$\approx$",
    "α": r"$\alpha$",
    "Δ": r"$\Delta$",
    "†": r"$\dagger$",
}


def markdown(tables: Sequence[Table]) -> str:
    """All tables, the title of each as a heading."""
    return "\n".join(_markdown_table(table) for table in tables)


def latex(tables: Sequence[Table]) -> str:
    """All tables as floats, wide ones scaled to the width of the text; the document needs booktabs and graphicx."""
    return "\n".join(["% \\usepackage{booktabs, graphicx}", *map(_latex_table, tables)])


def _markdown_table(table: Table) -> str:
    lines = [f"## {_markdown_text(table.title)}", ""]
    lines.append(_markdown_line(["", *(_markdown_text(column.text) for column in table.columns)]))
    lines.append("|---|" + "---:|" * len(table.columns))
    for label, cells in table.rows:
        lines.append(_markdown_line([_markdown_text(label), *map(_markdown_cell, cells)]))
    lines += [line for note in table.notes for line in ("", _markdown_text(note))]
    return "\n".join(lines) + "\n"


def _markdown_line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _markdown_cell(cell: Cell) -> str:
    return f"**{_markdown_text(cell.text)}**" if cell.best else _markdown_text(cell.text)


def _markdown_text(text: str) -> str:
    """On one line, and nothing in it is markup."""
    line = printable(" ".join(text.split()))
    return ENTITY.sub(r"\\&", "".join(f"\\{char}" if char in MARKDOWN_SPECIAL else char for char in line))


def _latex_table(table: Table) -> str:
    begin, end = ([r"\resizebox{\textwidth}{!}{%"], ["}"]) if _letters(table) > LATEX_LETTERS else ([], [])
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{' '.join(map(latex_text, (f'{table.title}.', *table.notes)))}}}",
            *begin,
            rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"\toprule",
            *_latex_head(table.columns),
            r"\midrule",
            *(_latex_line([latex_text(label), *map(_latex_cell, cells)]) for label, cells in table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            *end,
            r"\end{table}",
            "",
        ]
    )


def _letters(table: Table) -> int:
    """Letters of the widest line, without the gaps between columns."""
    labels = max((len(label) for label, _ in table.rows), default=0)
    return labels + sum(
        max([len(column.heading), *(len(cells[index].text) for _, cells in table.rows)])
        for index, column in enumerate(table.columns)
    )


def _latex_head(columns: Sequence[Column]) -> Iterator[str]:
    """A line of groups with rules below them, where there are groups, and a line of headings."""
    if any(column.group for column in columns):
        spans = [(group, len(list(members))) for group, members in groupby(columns, key=lambda column: column.group)]
        yield _latex_line(["", *(rf"\multicolumn{{{span}}}{{c}}{{{latex_text(group)}}}" for group, span in spans)])
        begin, rules = 2, []
        for group, span in spans:
            if group:
                rules.append(rf"\cmidrule(lr){{{begin}-{begin + span - 1}}}")
            begin += span
        yield " ".join(rules)
    yield _latex_line(["", *(latex_text(column.heading) for column in columns)])


def _latex_line(texts: Sequence[str]) -> str:
    # Behind the end of the line above, these would be its arguments.
    begin = "{}" if texts[0].startswith(("[", "*")) else ""
    return f"{begin}{' & '.join(texts)} \\\\"


def _latex_cell(cell: Cell) -> str:
    return rf"\textbf{{{latex_text(cell.text)}}}" if cell.best else latex_text(cell.text)


def latex_text(text: str) -> str:
    """Plain text as LaTeX shows it: special characters escaped, signs of this project's tables as commands."""
    return "".join(LATEX_SPECIAL.get(char, char) for char in printable(" ".join(text.split())))
