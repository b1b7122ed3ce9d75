"""`feddtl predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import tyro

from feddtl.cli.command import Command
from feddtl.cli.flags import STATED, DeviceFlag, RunFolder
from feddtl.cli.many_images import ImageFiles, is_on_terminal, utf8
from feddtl.cli.printing import print_aside
from feddtl.csv_text import csv_lines
from feddtl.units import counted, harmless, percent

if TYPE_CHECKING:
    from feddtl.trained_model import Prediction

    # Called with an image and its predictions.
    Sink = Callable[[str, list[Prediction]], None]

COLUMNS = ("image", "rank", "class", "probability")
"""Of the CSV file."""


@dataclass(frozen=True)
class Predict(Command):
    """Predict the classes of images with the model of a run."""

    folder: RunFolder
    """Folder of the run."""
    images: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES [IMAGES ...]", help_behavior_hint=STATED)
    ]
    """Image files, and folders with images at any depth."""
    classes: Annotated[str, tyro.conf.arg(metavar="NAMES", help_behavior_hint=STATED)] = ""
    """Names to choose from, any words: separated by commas, a name with a comma in double quotes, or @FILE with one
    name a line; default: all classes of the run."""
    prompt: Annotated[str, tyro.conf.arg(help_behavior_hint=STATED)] = ""
    """Prompt with {class}; several, one a line or in @FILE, are averaged; 'ensemble': the usual ones of the run's data
    set; default: the run's own."""
    top_k: int = 1
    """Number of classes for each image, the most likely first."""
    skip_damaged: bool = False
    """Name images that cannot be read and go on without them; by default, they are an error."""
    csv: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint=STATED)] = None
    """Write the predictions to this file instead of printing them: a line for each image and rank."""
    json: bool = False
    """Print the predictions as JSON."""
    device: DeviceFlag = "auto"
    """'auto', 'cpu', 'cuda', 'mps'."""

    def opening(self) -> str:
        return "" if self.json else f"loading the model of {self.folder} …"

    def execute(self) -> int:
        """Print or write the predictions of each image as soon as they are known."""
        from feddtl.run_files import require_run

        require_run(self.folder)  # before the seconds that the next line takes
        from feddtl.trained_model import load_trained_model

        files = ImageFiles(self.images, skip_damaged=self.skip_damaged)
        model = load_trained_model(self.folder, self.device, self.prompt, files.note)
        if note := model.note_on_clients:
            files.note(note)
        names = model.classes(self.classes or None)
        found = model.predictions(files.images(), names, top_k=self.top_k, damaged=files.damaged)
        printed = self.json or self.csv is None
        with ExitStack() as stack:
            sinks: list[Sink] = []
            if self.csv is not None:
                sinks.append(stack.enter_context(_csv_rows(self.csv)))
            # A bar takes standard output for itself, so this is the stream before it.
            out = sys.stdout
            progress = stack.enter_context(files.read(bar=not (printed and is_on_terminal())))
            if self.json:
                sinks.append(stack.enter_context(_json_rows(out)))
            elif printed:
                sinks.append(_table_rows(out, files.names, names))
            done = 0
            for done, (image, best) in enumerate(found, start=1):
                for add in sinks:
                    add(image.name, best)
                progress(done)
        if self.csv is not None:
            print_aside(f"predictions of {counted(done, 'image')}: {self.csv}")
        return 0


@contextmanager
def _csv_rows(path: Path) -> Iterator[Sink]:
    """A file with a line for each image and rank, which appears when it is whole."""
    from feddtl.storage import new_file

    with new_file(path) as file:
        file.write(csv_lines(COLUMNS, []).encode())

        def add(image: str, best: list[Prediction]) -> None:
            rows = [
                dict(zip(COLUMNS, (utf8(image), rank, *prediction), strict=True))
                for rank, prediction in enumerate(best, start=1)
            ]
            file.write(csv_lines(COLUMNS, rows, header=False).encode())

        yield add


@contextmanager
def _json_rows(out: TextIO) -> Iterator[Sink]:
    """A list with an entry on a line for each image; it is closed if the block ends without an error."""
    before = "[\n"

    def add(image: str, best: list[Prediction]) -> None:
        nonlocal before
        entry = {"image": image, "predictions": [{"class": name, "probability": value} for name, value in best]}
        print(before + json.dumps(entry), end="", file=out)
        before = ",\n"

    yield add
    print("[]" if before == "[\n" else "\n]", file=out)


def _table_rows(out: TextIO, images: list[str], classes: tuple[str, ...]) -> Sink:
    """Lines of a table whose widths are known before its rows: the image, then its classes one below the other."""
    from rich.cells import cell_len, set_cell_size

    widths = [
        max(map(cell_len, map(harmless, (heading, *texts))))
        for heading, texts in (("Image", images), ("Class", classes))
    ]

    def line(*cells: str) -> None:
        texts = [set_cell_size(harmless(cell), width) for cell, width in zip(cells, widths, strict=False)]
        print("  ".join((*texts, f"{cells[-1]:>5}")), file=out)

    headings = ["Image", "Class", "%"]

    def add(image: str, best: list[Prediction]) -> None:
        if headings:
            line(*headings)
            headings.clear()
        for name, value in best:
            line(image, name, percent(100 * value))
            image = ""

    return add
