"""Write tables of committed results into Markdown pages.

A page marks a table by two comments; the lines between them are replaced:

    <!-- table: results/quickstart.json columns=base,novel,hm,delta -->
    <!-- end -->

Options: columns=NAME,NAME  table="PART OF A TITLE"  rows="LABEL;LABEL"  title=no  notes=no
docs/how-to/compare.md explains them.

Run: python scripts/write_results_tables.py [PAGE ...]
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from feddtl.comparison.chosen_table import chosen_tables
from feddtl.comparison.files import Comparison, load_comparison
from feddtl.comparison.scores import condition_scores, setting_scores
from feddtl.comparison.tables import comparison_tables
from feddtl.errors import ConfigError, FeddtlError, did_you_mean
from feddtl.results.rendering import markdown
from feddtl.results.tables import Table

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = re.compile(r"<!-- table: (.+?) -->"), "<!-- end -->"
FENCE = re.compile(r"^\s*(```|~~~)")
OPTIONS = ("columns", "table", "rows", "title", "notes")
HEADINGS = {
    "local": "Local",
    "base": "Base",
    "novel": "Novel",
    "hm": "HM",
    "delta": "Δ HM",
    "delta-base": "Δ Base",
    "delta-novel": "Δ Novel",
    "rounds": "Rounds",
    "rate": "Rate",
    "server-rate": "Server rate",
    "trainable": "Trainable",
    "mb-up": "MB up",
    "mb-down": "MB down",
    "seconds": "Seconds",
    "paper": "Paper",
}
DIFFERENCES = ("harmonic_mean", "base", "novel")
ON_REQUEST = ("delta-base", "delta-novel")
TITLE = "## "  # what `markdown` puts before the title of a table


def main(arguments: Sequence[str]) -> int:
    """Write the pages that are named, or all of the repository.

    Returns:
        Exit code: 1 if a marked table cannot be written; the other pages are.
    """
    failed = 0
    for page in map(Path, arguments) if arguments else pages():
        text = page.read_text(encoding="utf-8")
        try:
            written = with_tables(text)
        except FeddtlError as error:
            print(f"error: {page}: {error.message}\n  {error.hint}", file=sys.stderr)
            failed = 1
            continue
        if written != text:
            page.write_text(written, encoding="utf-8")
            print(f"wrote {page}")
    return failed


def pages() -> list[Path]:
    """All pages of the repository."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def with_tables(text: str) -> str:
    """The text of a page with its marked tables written anew; the same without a mark. Marks in code are no marks.

    Raises:
        FeddtlError: A mark has no end, an option is wrong, or the results cannot be read.
    """
    lines, written, in_code, position = text.split("\n"), [], False, 0
    while position < len(lines):
        line = lines[position]
        written.append(line)
        position += 1
        in_code ^= bool(FENCE.match(line))
        mark = None if in_code else BEGIN.fullmatch(line.strip())
        if mark is None:
            continue
        rest = [one.strip() for one in lines[position:]]
        end = rest.index(END) if END in rest else -1
        if end < 0 or any(BEGIN.fullmatch(one) for one in rest[:end]):
            raise ConfigError(f"'{line.strip()}' has no end.", f"Write {END} on a line below it.")
        written += ["", *rendered(mark[1]).splitlines(), "", END]
        position += end + 1
    return "\n".join(written)


def rendered(mark: str) -> str:
    """The tables of a mark: file and options, as Markdown.

    Raises:
        FeddtlError: An option is wrong, nothing is left to show, or the results cannot be read.
    """
    try:
        file, *words = shlex.split(mark)
    except ValueError as error:
        raise ConfigError(f"'{mark}' cannot be read: {error}.", "Close every quotation mark.") from None
    options = dict(word.partition("=")[::2] for word in words)
    for name in options:
        if name not in OPTIONS:
            raise ConfigError(f"There is no option '{name}' of a table.", did_you_mean(name, OPTIONS))
    tables = [one for one in _tables(ROOT / file, options.get("rows", "")) if options.get("table", "") in one.title]
    if not tables:
        raise ConfigError(f"No table of {file} has '{options.get('table', '')}' in its title.", _titles(ROOT / file))
    shown = [_with_columns(table, _wanted(table, options.get("columns", ""))) for table in tables]
    shown = [table for table in shown if table.columns]
    if not shown:
        raise ConfigError(f"The tables of {file} have none of the columns {options['columns']}.", "Choose others.")
    if options.get("notes") == "no":
        shown = [replace(table, notes=()) for table in shown]
    lines = markdown(shown).splitlines()
    if options.get("title") == "no":
        return "\n".join(line for line in lines if not line.startswith(TITLE)).strip()
    # Bold text, so that a page keeps its own headings.
    return "\n".join(f"**{line.removeprefix(TITLE)}**" if line.startswith(TITLE) else line for line in lines).strip()


@cache
def _comparison(file: Path) -> Comparison:
    return load_comparison(file)


@cache
def _tables(file: Path, rows: str) -> tuple[Table, ...]:
    """All tables of a file, of these rows only if any are named, with every column."""
    comparison = _comparison(file)
    labels = tuple(filter(None, rows.split(";")))
    settings = setting_scores(comparison.outcomes, labels) if labels else comparison.settings
    known = {method.label for setting in comparison.settings for method in setting.methods}
    for label in labels:
        if label not in known:
            raise ConfigError(f"{file.name} has no row '{label}'.", did_you_mean(label, sorted(known)))
    conditions = condition_scores(settings) if labels else comparison.conditions
    tables = comparison_tables(settings, conditions, tuned=comparison.tuned, differences=DIFFERENCES)
    return (*tables, *chosen_tables(comparison.tuned)) if comparison.tuned else tables


def _titles(file: Path) -> str:
    return f"Its tables: {'; '.join(table.title for table in _comparison(file).tables)}."


def _wanted(table: Table, columns: str) -> list[int]:
    """Positions of the named columns; without names all but those on request."""
    names = columns.split(",") if columns else []
    for name in names:
        if name not in HEADINGS:
            raise ConfigError(f"There is no column '{name}'.", did_you_mean(name, list(HEADINGS)))
    wanted, hidden = {HEADINGS[name] for name in names}, {HEADINGS[name] for name in ON_REQUEST}
    headings = ["Paper" if one.group.startswith("Paper") else one.heading for one in table.columns]
    return [at for at, heading in enumerate(headings) if (heading in wanted if names else heading not in hidden)]


def _with_columns(table: Table, positions: Sequence[int]) -> Table:
    rows = tuple((label, tuple(cells[at] for at in positions)) for label, cells in table.rows)
    return replace(table, columns=tuple(table.columns[at] for at in positions), rows=rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
