"""`feddtl evaluate`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from feddtl.checks import require
from feddtl.cli.command import Command
from feddtl.cli.flags import STATED, ClassList, DeviceFlag, RunFolder
from feddtl.cli.printing import print_aside, print_json, print_note
from feddtl.config import DataConfig
from feddtl.config.class_lists import read_class_names, require_different, split_class_names
from feddtl.csv_text import csv_lines
from feddtl.units import percent, share

if TYPE_CHECKING:
    from rich.table import Table

    from feddtl.scoring import ClassListScore

RATES = ("accuracy", "zero_shot")
COLUMNS = (
    *("dataset", "classes", "choices", "site", "domain", "class"),
    *("images", "correct", "zero_shot_correct"),
    *RATES,
)
"""Of the CSV file."""


@dataclass(frozen=True)
class Evaluate(Command):
    """Score the model of a finished or interrupted run on any data set."""

    folder: RunFolder
    """Folder of the run."""
    source: Annotated[str, tyro.conf.arg(name="data.source", help_behavior_hint=STATED)] = ""
    """Catalogue name, Hub id, local folder, or 'shapes'; default: the run's own data."""
    root: Annotated[str, tyro.conf.arg(name="data.root", help_behavior_hint=STATED)] = ""
    """Folder with one sub-folder per data set; default: the Hub for a new source, otherwise the run's own."""
    domains: Annotated[str, tyro.conf.arg(name="data.domains", help_behavior_hint=STATED)] = ""
    """Comma-separated domains; default: all domains of a new source, otherwise the run's own."""
    novel: Annotated[str, tyro.conf.arg(name="data.novel", help_behavior_hint=STATED)] = ""
    """What is new in the novel classes of 'shapes': 'pairs', 'shapes' or 'colours'; default: 'pairs' for a new source,
    otherwise the run's own."""
    prompt: Annotated[str, tyro.conf.arg(name="data.prompt", help_behavior_hint=STATED)] = ""
    """Prompt with {class}; several, one a line or in @FILE, are averaged; 'ensemble': the usual ones of the source;
    default: the source's own."""
    image_column: Annotated[str, tyro.conf.arg(name="data.image-column", help_behavior_hint=STATED)] = ""
    """Image column of a Hub or parquet source; default: found by its type."""
    label_column: Annotated[str, tyro.conf.arg(name="data.label-column", help_behavior_hint=STATED)] = ""
    """Label column; default: found by its type and name."""
    domain_column: Annotated[str, tyro.conf.arg(name="data.domain-column", help_behavior_hint=STATED)] = ""
    """Domain column; default: 'domain', if it exists."""
    partition: Annotated[
        Literal["sites"] | None, tyro.conf.arg(name="data.partition", metavar="sites", help_behavior_hint=STATED)
    ] = None
    """'sites': the source is a folder of sites or has a column of them, and each is scored; default: no sites in a new
    source, otherwise the run's own."""
    site_column: Annotated[str, tyro.conf.arg(name="data.site-column", help_behavior_hint=STATED)] = ""
    """Column that names the site of each row; default: 'site'."""
    class_names: Annotated[str, tyro.conf.arg(name="data.classes", help_behavior_hint=STATED)] = ""
    """Names of the classes that take part: separated by commas, a name with a comma in double quotes, or @FILE with
    one name a line; default: the run's, or all of a new source."""
    classes: tuple[ClassList, ...] = ("base", "novel", "all")
    """Class lists to choose from: the classes that the run trained, the others, or all at once."""
    by_class: bool = False
    """Print the accuracy of each class too; JSON and CSV always contain it."""
    csv: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint=STATED)] = None
    """Write all accuracies to this file: a line for each class list, and for each site, domain and class in it."""
    device: DeviceFlag = "auto"
    """'auto', 'cpu', 'cuda', 'mps'."""
    json: bool = False
    """Print the scores as JSON."""

    def opening(self) -> str:
        return "" if self.json else f"scoring the model of {self.folder} …"

    def execute(self) -> int:
        """Print the accuracy per class list beside that of zero-shot, and by site or domain where there are several."""
        from rich.console import Console

        from feddtl.run_files import require_run

        require_run(self.folder)  # before the seconds that the next line takes
        from feddtl.scoring import score_run
        from feddtl.storage import write_text_atomic

        data = self._data_to_score()
        scores = score_run(
            self.folder,
            data,
            class_lists=self.classes,
            class_names=self._class_names(),
            device=self.device,
            note=print_note,
        )
        if self.csv is not None:
            write_text_atomic(self.csv, csv_lines(COLUMNS, [row for score in scores for row in _csv_rows(score)]))
            print_aside(f"table: {self.csv}")
        if self.json:
            print_json(list(map(_record, scores)))
        else:
            Console().print(_table(scores, data.domains))
            if self.by_class:
                Console().print(_class_table(scores))
        return 0

    def _class_names(self) -> tuple[str, ...]:
        """The names in `data.classes`. Raises ConfigError for a text without one, or with one twice."""
        text = read_class_names(self.class_names, "data.classes")
        names = split_class_names(text, "data.classes")
        require(bool(names) == bool(text), "data.classes", self.class_names, "names, separated by commas")
        require_different(names, "data.classes names")
        return names

    def _data_to_score(self) -> DataConfig:
        """The data that the flags describe; without a source, the run's own data with the flags applied."""
        from feddtl.runs import RunFolder

        columns = ("image_column", "label_column", "domain_column", "site_column")
        flags = ("root", "domains", "novel", "prompt", "partition", *columns)
        given: dict[str, Any] = {name: value for name in flags if (value := getattr(self, name))}
        if self.source:
            return DataConfig(source=self.source, **given).with_files_read()
        return replace(RunFolder.open(self.folder).experiment.data, **given).with_files_read()


def _record(score: ClassListScore) -> dict[str, Any]:
    """A class list as JSON has it; its parts are counts, those of sites and domains with accuracies."""
    record = asdict(score)
    for key, parts in (("sites", score.sites), ("domains", score.domains)):
        for name, hits in parts.items():
            record[key][name] |= {"accuracy": hits.accuracy, "zero_shot": hits.zero_shot}
    return record


def _csv_rows(score: ClassListScore) -> Iterator[dict[str, Any]]:
    """A row for the class list, then one for each of its sites, domains and classes."""
    head = {"dataset": score.dataset, "classes": score.classes, "choices": score.choices}
    parts = {"": {"": score.together}, "site": score.sites, "domain": score.domains, "class": score.by_class}
    for column, found in parts.items():
        for name, hits in found.items():
            rates = {key: "" if math.isnan(rate := getattr(hits, key)) else rate for key in RATES}
            yield {**head, **asdict(hits), **rates, **({column: name} if column else {})}


def _table(scores: list[ClassListScore], only_domains: str) -> Table:
    """A line for each class list, then one for each of its sites or domains."""
    from rich.table import Table

    from feddtl.cli.scores import cell

    chosen = f", domains {only_domains}" if only_domains else ""
    table = Table(title=cell(f"Accuracy in % on {scores[0].dataset}{chosen}"))
    table.add_column("Classes")
    heading = "Site" if scores[0].sites else "Domain" if scores[0].domains else ""
    if heading:
        table.add_column(heading, overflow="fold")
    for name in ("Choices", "Images", "Zero-shot", "Accuracy"):
        table.add_column(name, justify="right")
    for score in scores:
        numbers = (f"{score.choices:,}", f"{score.images:,}", percent(score.zero_shot), percent(score.accuracy))
        table.add_row(score.classes, *([cell("all")] if heading else []), *numbers)
        for name, hits in (score.sites or score.domains).items() if score.images else ():
            table.add_row("", cell(name), "", f"{hits.images:,}", percent(hits.zero_shot), percent(hits.accuracy))
        if heading:
            table.add_section()
    return table


def _class_table(scores: list[ClassListScore]) -> Table:
    """Accuracy of each class beside zero-shot; counts of a class with fewer than ten images."""
    from rich.table import Table

    from feddtl.cli.scores import cell

    table = Table(title="Accuracy in % by class")
    for heading in ("Class", "Classes"):
        table.add_column(heading)
    for heading in ("Images", "Zero-shot", "Accuracy"):
        table.add_column(heading, justify="right")
    for score in scores:
        for name, hits in score.by_class.items():
            both = (share(right, hits.images)[0] for right in (hits.zero_shot_correct, hits.correct))
            table.add_row(cell(name), score.classes, f"{hits.images:,}", *both)
    return table
