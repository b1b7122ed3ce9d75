"""The tables of the settings that were tried and chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feddtl.comparison.choices import SHORT, Choice, Tuned, words_of_values
from feddtl.config.running import SCORED_IMAGES
from feddtl.results.tables import NOTHING, Cell, Column, Table
from feddtl.units import counted, listed, percent, value_text

HELD_BACK = SCORED_IMAGES["held-back"]
DIVERGED = "diverged"
CRITERIA = {"base": "base accuracy", "local": "local accuracy"}
SEARCHES = {
    "coordinates": "One setting after the other, from the values of the file, until no other value of one alone is "
    "better.",
    "product": "Every combination of the values.",
    "together": "The first values of all settings, then the second ones, and so on.",
}


def heading(key: str) -> str:
    """Of a setting's column."""
    return SHORT[key].capitalize() if key in SHORT else key


def chosen_tables(found: Tuned) -> tuple[Table, ...]:
    """A row for each experiment; and for each that has several settings, the accuracy at every point."""
    return (_choices_table(found), *(_points_table(one, found) for one in found.choices if len(one.settings) > 1))


def points_note(found: Tuned) -> str:
    """How many points were tried for which experiments: 'Points tried: 13 for FedDTL; 7 for FedLoRA and PromptFL.'"""
    by_count: dict[int, list[str]] = {}
    labels = _labels(found)
    for choice in found.choices:
        by_count.setdefault(len(choice.tried), []).append(labels[choice.name])
    if len(by_count) == 1:
        return f"Points tried: {next(iter(by_count))} for each method."
    counts = "; ".join(f"{count} for {listed(names)}" for count, names in sorted(by_count.items(), reverse=True))
    return f"Points tried: {counts}."


def choice_line(choice: Choice, found: Tuned) -> str:
    """The choice for one experiment on one line of a terminal."""
    if choice.chosen is None:
        return f"{choice.what}: nothing chosen. {choice.error}"
    ends = choice.at_ends(found.grids)
    end = f", {listed([SHORT.get(key, key) for key in ends])} at the end of the grid" if ends else ""
    by = f"{CRITERIA[choice.criterion]} {percent(choice.mean)} on {HELD_BACK}"
    return (
        f"{choice.what}: {words_of_values(choice.chosen)} chosen from {counted(len(choice.tried), 'point')}, {by}{end}"
    )


def _choices_table(found: Tuned) -> Table:
    """What was chosen, by what, from how many points; and the best accuracy with each value of the first setting."""
    first = found.settings[0]
    labels = _labels(found)
    columns = [
        *(Column(heading(key), "Chosen") for key in found.settings),
        *(Column("By"), Column("Points")),
        *(Column(value_text(value), f"At {SHORT.get(first, first)}") for value in found.grids[first]),
    ]
    rows = [(labels[choice.name], _choice_cells(choice, found, first)) for choice in found.choices]
    seeds = f"seed{'s' if len(found.seeds) > 1 else ''} {listed(list(map(str, found.seeds)))}"
    return Table(
        f"Chosen settings: accuracy in % on {HELD_BACK}, {seeds}", tuple(columns), tuple(rows), tuple(_notes(found))
    )


def _choice_cells(choice: Choice, found: Tuned, first: str) -> tuple[Cell, ...]:
    chosen = choice.chosen or {}
    return (
        *(Cell(value_text(chosen[key]) if key in chosen else NOTHING) for key in found.settings),
        *(Cell(choice.criterion), Cell(str(len(choice.tried)))),
        *(_best_cell(choice, {first: value}) for value in found.grids[first]),
    )


def _best_cell(choice: Choice, values: Mapping[str, Any]) -> Cell:
    """The best accuracy of the points with these values, bold where the chosen one is among them."""
    own = [one for one in choice.tried if values.items() <= one.values.items()]
    means = [one.mean for one in own if one.mean is not None]
    if not means:
        return Cell(DIVERGED if any(one.diverged for one in own) else NOTHING)
    return Cell(percent(max(means)), best=values.items() <= (choice.chosen or {}).items())


def _points_table(choice: Choice, found: Tuned) -> Table:
    """A row for each value of the first setting, and a column for those of the others."""
    first, *others = choice.settings
    shown = sorted(
        {tuple(one.values[key] for key in others) for one in choice.tried},
        key=lambda values: [found.grids[key].index(value) for key, value in zip(others, values, strict=True)],
    )
    group = ", ".join(heading(key) for key in others)
    columns = tuple(Column(", ".join(map(value_text, values)), group) for values in shown)
    rows = tuple(
        (
            value_text(value),
            tuple(_best_cell(choice, {first: value, **dict(zip(others, values, strict=True))}) for values in shown),
        )
        for value in found.grids[first]
    )
    title = f"Points of {choice.what}: {CRITERIA[choice.criterion]} in % on {HELD_BACK}"
    return Table(title, columns, rows, (f"{NOTHING}: not tried. Bold: the chosen point.",), corner=heading(first))


def _notes(found: Tuned) -> list[str]:
    notes = [
        "The highest accuracy after the last round; of equal ones, that of the smallest values. "
        "By: base, the global model on the base classes; local, the clients' own models, for methods that keep a part "
        "of them on the clients. No test image and no novel class is used. Bold: the chosen value; unlike in the other "
        "tables, it says nothing about intervals.",
        points_note(found),
    ]
    if any(len(choice.settings) > 1 for choice in found.choices):
        notes.append(f"Several settings: {SEARCHES[found.search]} At a value, the table has the best point with it.")
    for choice in found.choices:
        notes += [
            f"{choice.what}: {key} {value_text(value)} is at the end of the grid, so a value beyond it may be better."
            for key, value in (choice.chosen or {}).items()
            if key in choice.at_ends(found.grids)
        ]
        notes += [
            f"{choice.what} diverged at {words_of_values(one.values)}: {one.diverged}"
            for one in choice.tried
            if one.diverged
        ]
        if choice.error:
            notes.append(f"{choice.what} has no choice: {choice.error}")
    if found.without:
        notes.append(f"There is nothing to choose in {listed(found.without)}.")
    return notes


def _labels(found: Tuned) -> dict[str, str]:
    """By experiment the title of its method, with its name where others have the same title."""
    titles = [choice.title for choice in found.choices]
    return {one.name: one.title if titles.count(one.title) == 1 else one.what for one in found.choices}
