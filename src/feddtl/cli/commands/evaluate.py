"""`feddtl evaluate`."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from feddtl.checks import require
from feddtl.cli.command import Command, print_json
from feddtl.cli.flags import STATED, ClassList
from feddtl.config import DataConfig
from feddtl.config.class_lists import read_class_names, require_different, split_class_names
from feddtl.units import percent, share

if TYPE_CHECKING:
    from rich.table import Table

    from feddtl.scoring import ClassListScore


@dataclass(frozen=True)
class Evaluate(Command):
    """Score the model of a finished or interrupted run on any data set."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
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
    """Prompt with {class}; default: the source's own."""
    image_column: Annotated[str, tyro.conf.arg(name="data.image-column", help_behavior_hint=STATED)] = ""
    """Image column of a Hub or parquet source; default: found by its type."""
    label_column: Annotated[str, tyro.conf.arg(name="data.label-column", help_behavior_hint=STATED)] = ""
    """Label column; default: found by its type and name."""
    domain_column: Annotated[str, tyro.conf.arg(name="data.domain-column", help_behavior_hint=STATED)] = ""
    """Domain column; default: 'domain', if it exists."""
    class_names: Annotated[str, tyro.conf.arg(name="data.classes", help_behavior_hint=STATED)] = ""
    """Names of the classes that take part: separated by commas, a name with a comma in double quotes, or @FILE with
    one name a line; default: the run's, or all of a new source."""
    classes: tuple[ClassList, ...] = ("base", "novel", "all")
    """Class lists to choose from: the classes that the run trained, the others, or all at once."""
    by_class: bool = False
    """Print the accuracy of each class too; with --json, it is always there."""
    device: Annotated[str, tyro.conf.arg(name="compute.device")] = "auto"
    """'auto', 'cpu', 'cuda', 'mps'."""
    json: bool = False
    """Print the scores as JSON."""

    def execute(self) -> int:
        """Print the accuracy per class list beside that of zero-shot, and per domain where there are several."""
        from rich.console import Console

        from feddtl.scoring import score_run

        data = self._data_to_score()
        scores = score_run(
            self.folder,
            data,
            class_lists=self.classes,
            class_names=self._class_names(),
            device=self.device,
            note=lambda text: print(f"note: {text}", file=sys.stderr),
        )
        if self.json:
            print_json([asdict(score) for score in scores])
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

        flags = ("root", "domains", "novel", "prompt", "image_column", "label_column", "domain_column")
        given: dict[str, Any] = {name: value for name in flags if (value := getattr(self, name))}
        if self.source:
            return DataConfig(source=self.source, **given)
        return replace(RunFolder.open(self.folder).experiment.data, **given)


def _table(scores: list[ClassListScore], only_domains: str) -> Table:
    from rich.table import Table

    from feddtl.cli.scores import cell

    chosen = f", domains {only_domains}" if only_domains else ""
    table = Table(title=cell(f"Accuracy in % on {scores[0].dataset}{chosen}"))
    domains = list(scores[0].domains)
    table.add_column("Classes")
    for heading in ("Choices", "Images", "Zero-shot", "Accuracy", *domains):
        table.add_column(cell(heading), justify="right")
    for score in scores:
        by_domain = [percent(score.domains.get(name)) for name in domains]
        both = (percent(score.zero_shot), percent(score.accuracy))
        table.add_row(score.classes, str(score.choices), str(score.images), *both, *by_domain)
    return table


def _class_table(scores: list[ClassListScore]) -> Table:
    """Correct images of each class; a percentage where there are ten images or more."""
    from rich.table import Table

    from feddtl.cli.scores import cell

    table = Table(title="Accuracy in % by class")
    for heading in ("Class", "Classes"):
        table.add_column(heading)
    for heading in ("Accuracy", "Correct"):
        table.add_column(heading, justify="right")
    for score in scores:
        for name, count in score.by_class.items():
            value, fraction = share(count.correct, count.images)
            cells = (value, fraction) if fraction else ("–", value)
            table.add_row(cell(name), score.classes, *cells)
    return table
