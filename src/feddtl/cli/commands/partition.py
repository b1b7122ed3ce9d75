"""`feddtl partition`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from feddtl.cli.experiment_argument import ExperimentCommand
from feddtl.cli.flags import STATED, ExperimentFile, Flags
from feddtl.cli.printing import print_aside, print_json, print_note, print_text
from feddtl.config import Experiment
from feddtl.prompts import templates_of
from feddtl.units import ClientNames, shortened

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from feddtl.config.running import ScoredImages
    from feddtl.data.federated import FederatedData
    from feddtl.data.images_per_class import ClassImages
    from feddtl.data.shares import Counts

SHADES = " ░▒▓█"
LETTERS_OF_SITE = 24
WIDTH_OF_NUMBERS = 42  # of the other columns and the frame
WIDTH_OF_CLASSES = 48  # of the columns of a class before those of the clients, and the frame


@dataclass(frozen=True)
class Partition(ExperimentCommand):
    """Show which classes are trained and which are novel, and which client gets which images."""

    experiment: ExperimentFile = None
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint=STATED)] = None
    """Write the heat map to this file (.svg, .png, .pdf)."""
    json: bool = False
    """Print the counts as JSON."""
    config: Flags = field(default_factory=Experiment)

    def opening(self) -> str:
        return "" if self.json else f"reading the labels of {self.config.data.source} …"

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
            print_json(described(data, counts))
        else:
            _print(Console(), data, counts)
        if self.plot is not None:
            _plot(self.config, data, counts, self.plot)
        return 0


def described(data: FederatedData, counts: Counts) -> dict[str, Any]:
    """The partition as JSON has it; `counts` (K, C) are training images by client and base class."""
    from feddtl.data.images_per_class import few_images, images_per_class, scored_counts

    classes = [
        {"name": row.name, "use": row.use, "train": sum(row.train), "test": row.test} for row in images_per_class(data)
    ]
    return {
        "dataset": data.name,
        **({"sites": data.sites} if data.sites else {}),
        "prompt_templates": templates_of(data.prompt_template),
        "base_classes": data.base_names,
        "novel_classes": data.novel_names,
        "unused_classes": data.unused_names,
        "classes": classes,
        "images_per_client_and_class": counts.tolist(),
        "test_images_per_client_and_class": scored_by_client(data).tolist(),
        "scored": data.scored,
        "few_images": few_images(scored_counts(data), data.scored),
        "notes": data.notes,
    }


def scored_by_client(data: FederatedData) -> Counts:
    """(K, C) images to score by client and base class."""
    import numpy as np

    labels, classes = data.test_base.labels, len(data.base_names)
    return np.stack([np.bincount(labels[share], minlength=classes) for share in data.partition.test])


def _plot(experiment: Experiment, data: FederatedData, counts: Counts, path: Path) -> None:
    import numpy as np

    from feddtl.config.running import SCORED_IMAGES
    from feddtl.plots import partition_heat_map

    novel = len(data.novel_names)
    title = f"{data.name}, {experiment.data.regime}, {experiment.data.partition}, seed {experiment.seed}"
    tests = np.concatenate([scored_by_client(data).sum(axis=0), np.bincount(data.test_novel.labels, minlength=novel)])
    names, scored = (*data.base_names, *data.novel_names), SCORED_IMAGES[data.scored]
    if not partition_heat_map(counts, names, title, path, tests, scored, ClientNames(data.sites)):
        print_note("The font of the heat map lacks letters of these names; an .svg shows them.")
    print_aside(f"heat map: {path}")


def _print(console: Console, data: FederatedData, counts: Counts) -> None:
    from feddtl.data.images_per_class import few_images, images_per_class, scored_counts

    few = few_images(scored_counts(data), data.scored)
    for note in (*data.notes, *([few] if few else [])):
        print_note(note)
    wider = max((len(_label(data, client)) for client in range(len(counts))), default=0) - len("Client")
    each = -(-counts.shape[1] // max(10, console.width - WIDTH_OF_NUMBERS - max(0, wider)))
    cells = merged(counts, each)
    console.print(_table(data, counts, cells))
    what = "a class" if each == 1 else f"{each} neighbouring classes"
    print_text(
        f"A cell is {what}: ' ' none, '█' up to {cells.max()} images. The first class is '{data.base_names[0]}'."
    )
    console.print(_class_table(images_per_class(data), console.width, data.scored, ClientNames(data.sites)))


def merged(counts: Counts, each: int) -> Counts:
    """(K, ⌈C/n⌉) sums over n neighbouring classes, so that any number of classes fits a line."""
    import numpy as np

    starts = np.arange(0, counts.shape[1], each)
    return np.add.reduceat(counts, starts, axis=1)


def _table(data: FederatedData, counts: Counts, cells: Counts) -> Table:
    from rich.table import Table

    from feddtl.cli.scores import cell

    noun = ClientNames(data.sites).noun
    table = Table(title=cell(f"Images of {data.name} by {noun}"))
    for heading in (noun.capitalize(), "Train", "Test" if data.scored == "test" else "Held back", "Classes"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(f"Classes 0 to {counts.shape[1] - 1}", no_wrap=True)
    most = max(1, int(cells.max()))
    for client, row in enumerate(cells):
        shades = "".join(SHADES[math.ceil(count / most * (len(SHADES) - 1))] for count in row)
        numbers = (counts[client].sum(), len(data.partition.test[client]), (counts[client] > 0).sum())
        table.add_row(cell(_label(data, client)), *map(str, numbers), shades)
    return table


def _label(data: FederatedData, client: int) -> str:
    return shortened(ClientNames(data.sites).label(client), LETTERS_OF_SITE)


def _class_table(rows: Sequence[ClassImages], width: int, scored: ScoredImages, names: ClientNames) -> Table:
    """A line for each class; where the clients do not fit as columns, one column names those with images."""
    from rich.table import Table

    from feddtl.cli.scores import cell

    clients = len(rows[0].train)
    labels = [shortened(names.label(client), LETTERS_OF_SITE) for client in range(clients)]
    digits = max(len(str(count)) for row in rows for count in (*row.train, clients))
    as_columns = WIDTH_OF_CLASSES + sum(max(digits, len(label)) + 3 for label in labels) <= width
    table = Table(title="Images by class")
    for heading in ("Class", "Use"):
        table.add_column(heading, overflow="fold")
    for heading in ("Train", "Test" if scored == "test" else "Held back"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in labels if as_columns else (f"Training images by {names.noun}",):
        table.add_column(cell(heading), justify="right" if as_columns else "left")
    for row in rows:
        by_client = [str(count) if count else "" for count in row.train]
        if not as_columns:
            by_client = [", ".join(f"{labels[client]}: {count}" for client, count in enumerate(row.train) if count)]
        trained = row.use == "trained"
        test = "–" if row.use == "unused" else str(row.test)
        table.add_row(cell(row.name), row.use, str(sum(row.train)) if trained else "–", test, *map(cell, by_client))
    return table
