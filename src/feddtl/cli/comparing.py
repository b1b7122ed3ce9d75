"""`feddtl compare`."""

from __future__ import annotations

import sys

from rich.console import Console

from feddtl.cli.commands import Compare
from feddtl.cli.comparison_progress import choose_comparison_observer
from feddtl.cli.comparison_tables import print_tables
from feddtl.comparison.files import FILES, Comparison
from feddtl.comparison.grid import compare
from feddtl.storage import json_text


def compare_experiments(command: Compare) -> int:
    """Run what is not finished, show progress on standard error, the tables on standard output.

    Returns:
        Exit code: 1 if a cell failed.
    """
    observer = choose_comparison_observer(quiet=command.quiet or command.json, terminal=sys.stderr.isatty())
    try:
        with observer:
            found = compare(
                command.resolved, command.output, seeds=command.seeds, observer=observer, track=command.track
            )
    except KeyboardInterrupt:
        print(
            f"interrupted: give the same command again to go on from where it stood; {command.output} has the tables "
            "of what is done.",
            file=sys.stderr,
        )
        return 130
    if command.json:
        print(json_text(found.as_dict()), end="")
    else:
        console = Console()
        print_tables(console, found.tables)
        console.print(f"{command.output} has {', '.join(FILES)}", highlight=False, soft_wrap=True, markup=False)
    _print_failures(found)
    return 1 if found.failures else 0


def _print_failures(comparison: Comparison) -> None:
    """Which cells are missing, why, and how to go on."""
    if not comparison.failures:
        return
    cells = len(comparison.failures) + len(comparison.outcomes)
    print(f"error: {len(comparison.failures)} of {cells} cells failed:", file=sys.stderr)
    for failure in comparison.failures:
        print(f"  {failure.name}, seed {failure.seed}: {failure.message}", file=sys.stderr)
        if failure.hint:
            print(f"    {failure.hint}", file=sys.stderr)
    print(
        "  Mend what is wrong and give the same command again: finished cells are kept, the others are tried again.",
        file=sys.stderr,
    )
