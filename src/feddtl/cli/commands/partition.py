"""`feddtl partition`."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from feddtl.cli.command import print_json
from feddtl.cli.experiment_argument import ExperimentCommand
from feddtl.cli.flags import STATED, ExperimentFile, Flags
from feddtl.config import Experiment

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from feddtl.data.federated import FederatedData
    from feddtl.data.shares import Counts

SHADES = " ░▒▓█"
WIDTH_OF_NUMBERS = 42  # of the other columns and the frame


@dataclass(frozen=True)
class Partition(ExperimentCommand):
    """Show which client gets which training images: a table, and a class x client heat map."""

    experiment: ExperimentFile = None
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint=STATED)] = None
    """Write the heat map to this file (.svg, .png, .pdf)."""
    json: bool = False
    """Print the counts as JSON."""
    config: Flags = field(default_factory=Experiment)

    def execute(self) -> int:
        """Print a line per client with a shade per class; optionally draw the heat map."""
        from rich.console import Console

        from feddtl.data.federated import load_federated_data
        from feddtl.plots import require_plot_ending

        if self.plot is not None:
            require_plot_ending(self.plot)
        data = load_federated_data(self.config.data, self.config.seed, held_back=self.config.evaluation.held_back)
        counts = data.partition.counts(data.train.labels, len(data.base_names))
        if self.json:
            found = {"base_classes": data.base_names, "images_per_client_and_class": counts.tolist()}
            print_json(found)
        else:
            _print(Console(), data, counts)
        if self.plot is not None:
            _plot(self.config, data, counts, self.plot)
        return 0


def _plot(experiment: Experiment, data: FederatedData, counts: Counts, path: Path) -> None:
    from feddtl.plots import partition_heat_map

    title = f"{data.name}, {experiment.data.regime}, {experiment.data.partition}, seed {experiment.seed}"
    if not partition_heat_map(counts, data.base_names, title, path):
        print("note: the font of the heat map lacks letters of these names; an .svg shows them.", file=sys.stderr)
    print(f"heat map: {path}", file=sys.stderr)


def _print(console: Console, data: FederatedData, counts: Counts) -> None:
    for note in data.notes:
        print(f"note: {note}", file=sys.stderr)
    each = -(-counts.shape[1] // max(10, console.width - WIDTH_OF_NUMBERS))
    cells = merged(counts, each)
    console.print(_table(data, counts, cells))
    what = "a class" if each == 1 else f"{each} neighbouring classes"
    print(f"A cell is {what}: ' ' none, '█' up to {cells.max()} images. The first class is '{data.base_names[0]}'.")


def merged(counts: Counts, each: int) -> Counts:
    """(K, ⌈C/n⌉) sums over n neighbouring classes, so that any number of classes fits a line."""
    import numpy as np

    starts = np.arange(0, counts.shape[1], each)
    return np.add.reduceat(counts, starts, axis=1)


def _table(data: FederatedData, counts: Counts, cells: Counts) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"Images of {data.name} by client"))
    for heading in ("Client", "Train", "Test" if data.scored == "test" else "Held back", "Classes"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(f"Classes 0 to {counts.shape[1] - 1}", no_wrap=True)
    most = max(1, int(cells.max()))
    for client, row in enumerate(cells):
        shades = "".join(SHADES[math.ceil(count / most * (len(SHADES) - 1))] for count in row)
        numbers = (counts[client].sum(), len(data.partition.test[client]), (counts[client] > 0).sum())
        table.add_row(str(client), *map(str, numbers), shades)
    return table
