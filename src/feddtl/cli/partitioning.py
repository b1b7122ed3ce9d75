"""`feddtl partition`."""

from __future__ import annotations

import json

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from feddtl.cli.commands import Partition
from feddtl.data.federated import FederatedData, load_federated_data
from feddtl.data.shares import Counts
from feddtl.plots import partition_heat_map, require_plot_ending

SHADES = " ░▒▓█"
# What the other columns and the frame take of a line.
WIDTH_OF_NUMBERS = 42


def show_partition(command: Partition) -> int:
    """Print a line per client with a shade per class; optionally draw the heat map."""
    if command.plot is not None:
        require_plot_ending(command.plot)
    data = load_federated_data(command.config.data, command.config.seed)
    counts = data.partition.counts(data.train.labels, len(data.base_names))
    if command.json:
        print(json.dumps({"base_classes": data.base_names, "images_per_client_and_class": counts.tolist()}, indent=2))
    else:
        _print(Console(), data, counts)
    if command.plot is not None:
        config = command.config.data
        title = f"{data.name}, {config.regime}, {config.partition}, seed {command.config.seed}"
        partition_heat_map(counts, data.base_names, title, command.plot)
        Console(stderr=True).print(f"heat map: {command.plot}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _print(console: Console, data: FederatedData, counts: Counts) -> None:
    for note in data.notes:
        Console(stderr=True).print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    each = -(-counts.shape[1] // max(10, console.width - WIDTH_OF_NUMBERS))
    cells = merged(counts, each)
    console.print(_table(data, counts, cells))
    what = "a class" if each == 1 else f"{each} neighbouring classes"
    legend = f"A cell is {what}: ' ' none, '█' up to {cells.max()} images. The first class is '{data.base_names[0]}'."
    console.print(legend, markup=False, highlight=False, soft_wrap=True)


def merged(counts: Counts, each: int) -> Counts:
    """(K, ⌈C/n⌉) sums over n neighbouring classes, so that any number of classes fits a line."""
    starts = np.arange(0, counts.shape[1], each)
    return np.add.reduceat(counts, starts, axis=1)


def _table(data: FederatedData, counts: Counts, cells: Counts) -> Table:
    table = Table(title=Text(f"Images of {data.name} by client"))
    for heading in ("Client", "Train", "Test", "Classes"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(f"Classes 0 to {counts.shape[1] - 1}", no_wrap=True)
    most = max(1, int(cells.max()))
    for client, row in enumerate(cells):
        shades = "".join(SHADES[int(np.ceil(count / most * (len(SHADES) - 1)))] for count in row)
        numbers = (counts[client].sum(), len(data.partition.test[client]), (counts[client] > 0).sum())
        table.add_row(str(client), *map(str, numbers), shades)
    return table
