"""The table of the learning rates that were tried and chosen."""

from __future__ import annotations

from feddtl.comparison.tuning import ChosenRates, RateChoice
from feddtl.config.running import SCORED_IMAGES
from feddtl.results.tables import NOTHING, Cell, Column, Table
from feddtl.units import listed, percent

HELD_BACK = SCORED_IMAGES["held-back"]
DIVERGED = "diverged"
CRITERIA = {"base": "base accuracy", "local": "local accuracy"}


def rates_table(found: ChosenRates) -> Table:
    """A row for each experiment: the chosen rate, the accuracy it was chosen by, and that accuracy at every rate."""
    titles = [choice.title for choice in found.choices]
    columns = [Column("Chosen"), Column("By"), *(Column(f"{rate:g}", "At rate") for rate in found.rates)]
    rows = [
        (choice.title if titles.count(choice.title) == 1 else f"{choice.title} ({choice.name})", _cells(choice, found))
        for choice in found.choices
    ]
    seeds = listed(list(map(str, found.seeds)))
    title = f"Chosen rates: accuracy in % on {HELD_BACK}, seed{'s' if len(found.seeds) > 1 else ''} {seeds}"
    return Table(title, tuple(columns), tuple(rows), tuple(_notes(found)))


def _cells(choice: RateChoice, found: ChosenRates) -> tuple[Cell, ...]:
    chosen = NOTHING if choice.rate is None else f"{choice.rate:g}"
    scores = (
        Cell(DIVERGED) if rate in choice.diverged else Cell(percent(choice.mean(rate)), best=rate == choice.rate)
        for rate in found.rates
    )
    return Cell(chosen), Cell(choice.criterion), *scores


def _notes(found: ChosenRates) -> list[str]:
    notes = [
        "local.learning_rate with the highest accuracy after the last round; of equal ones, the smallest. "
        "By: base, the global model on the base classes; local, the clients' own models, for methods that keep a part "
        "of them on the clients. No test image and no novel class is used. Bold: the chosen rate; unlike in the other "
        "tables, it says nothing about intervals."
    ]
    for choice in found.choices:
        what = f"{choice.title} ({choice.name})"
        if choice.rate is not None and choice.is_at_end(found.rates):
            notes.append(f"{what}: {choice.rate:g} is at the end of the grid, so a rate beyond it may be better.")
        notes += [f"{what} diverged at {rate:g}: {reason}" for rate, reason in sorted(choice.diverged.items())]
        if choice.error:
            notes.append(f"{what} has no rate: {choice.error}")
    if found.untrained:
        notes.append(f"Nothing is trained, so there is no rate to choose, in {listed(found.untrained)}.")
    return notes


def rate_line(choice: RateChoice, found: ChosenRates) -> str:
    """The choice for one experiment on one line of a terminal."""
    what = f"{choice.title} ({choice.name})"
    if choice.rate is None:
        return f"{what}: no rate chosen. {choice.error}"
    end = ", at the end of the grid" if choice.is_at_end(found.rates) else ""
    by = f"{CRITERIA[choice.criterion]} {percent(choice.mean(choice.rate))} on {HELD_BACK}"
    return f"{what}: rate {choice.rate:g} chosen, {by}{end}"
