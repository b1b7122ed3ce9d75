"""`feddtl partition`."""

from __future__ import annotations

import json

import numpy as np
from rich.console import Console
from rich.table import Table

from feddtl.cli.commands import Partition
from feddtl.data.federated import FederatedData, load_federated_data
from feddtl.plots import partition_heat_map

SHADES = " ░▒▓█"
# Beyond this many classes a row of cells no longer fits a terminal.
WIDEST_ROW = 60


def show_partition(command: Partition) -> int:
    """Print a line per client with a shade per class; optionally draw the heat map."""
    data = load_federated_data(command.config.data, command.config.seed)
    counts = data.partition.counts(data.train.labels, len(data.base_names))
    if command.json:
        print(json.dumps({"base_classes": data.base_names, "images_per_client_and_class": counts.tolist()}, indent=2))
    else:
        console = Console()
        for note in data.notes:
            console.print(f"note: {note}", markup=False, highlight=False)
        console.print(_table(data, counts))
        console.print(_legend(data, counts), markup=False, highlight=False)
    if command.plot is not None:
        config = command.config.data
        title = f"{data.name}, {config.regime}, {config.partition}, seed {command.config.seed}"
        partition_heat_map(counts, data.base_names, title, command.plot)
        Console(stderr=True).print(f"heat map: {command.plot}", markup=False, highlight=False)
    return 0


def _table(data: FederatedData, counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Table:
    table = Table(title=f"Training images of {data.name} by client")
    for heading in ("Client", "Images", "Classes", "Test share", f"Classes 0 to {counts.shape[1] - 1}"):
        table.add_column(heading, justify="left" if heading.startswith("Classes 0") else "right", no_wrap=True)
    shaded = counts[:, :WIDEST_ROW]
    most = max(1, int(counts.max()))
    for client, row in enumerate(shaded):
        cells = "".join(SHADES[int(np.ceil(count / most * (len(SHADES) - 1)))] for count in row)
        test = str(len(data.partition.test[client]))
        table.add_row(str(client), str(counts[client].sum()), str(int((counts[client] > 0).sum())), test, cells)
    return table


def _legend(data: FederatedData, counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> str:
    cut = f" (the first {WIDEST_ROW} of {counts.shape[1]} classes)" if counts.shape[1] > WIDEST_ROW else ""
    return f"A cell is a class: ' ' none, '█' {counts.max()} images{cut}. Class 0 is '{data.base_names[0]}'."
