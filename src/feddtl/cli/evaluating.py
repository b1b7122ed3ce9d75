"""`feddtl evaluate`."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from feddtl.cli.commands import Evaluate
from feddtl.config import DataConfig
from feddtl.runs import RunFolder
from feddtl.scoring import ClassListScore, score_run
from feddtl.storage import json_text
from feddtl.units import percent


def evaluate(command: Evaluate) -> int:
    """Print accuracy per class list, and per domain where there are several."""
    data = data_to_score(command)
    scores = score_run(
        command.folder,
        data,
        class_lists=command.classes,
        device=command.device,
        note=lambda text: print(f"note: {text}", file=sys.stderr),
    )
    if command.json:
        print(json_text([score.as_dict() for score in scores]), end="")
    else:
        Console().print(_table(scores, data.domains))
    return 0


def data_to_score(command: Evaluate) -> DataConfig:
    """What the flags say; without a source, the run's own data with the flags over it."""
    flags = {
        "root": command.root,
        "domains": command.domains,
        "prompt": command.prompt,
        "image_column": command.image_column,
        "label_column": command.label_column,
        "domain_column": command.domain_column,
    }
    given: dict[str, Any] = {name: value for name, value in flags.items() if value}
    if command.source:
        return DataConfig(source=command.source, **given)
    return replace(RunFolder.open(command.folder).experiment.data, **given)


def _table(scores: list[ClassListScore], only_domains: str) -> Table:
    chosen = f", domains {only_domains}" if only_domains else ""
    table = Table(title=Text(f"Accuracy in % on {scores[0].dataset}{chosen}"))
    domains = list(scores[0].domains)
    table.add_column("Classes")
    for heading in ("Choices", "Images", "Accuracy", *domains):
        table.add_column(Text(heading), justify="right")
    for score in scores:
        by_domain = [percent(score.domains.get(name)) for name in domains]
        table.add_row(score.classes, str(score.choices), str(score.images), percent(score.accuracy), *by_domain)
    return table
