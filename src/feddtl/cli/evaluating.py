"""`feddtl evaluate`."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from feddtl.cli.commands import Evaluate
from feddtl.cli.terminal import percent
from feddtl.scoring import ClassListScore, score_run


def evaluate(command: Evaluate) -> int:
    """Print accuracy per class list, and per domain where there are several."""
    scores = score_run(
        command.folder,
        source=command.source,
        domains=command.domains,
        prompt=command.prompt,
        class_lists=command.classes,
        device=command.device,
    )
    if command.json:
        print(json.dumps([score.as_dict() for score in scores], indent=2))
    else:
        Console().print(_table(scores))
    return 0


def _table(scores: list[ClassListScore]) -> Table:
    table = Table(title=f"Accuracy in % on {scores[0].dataset}")
    domains = list(scores[0].domains)
    for heading in ("Classes", "Choices", "Images", "Accuracy", *domains):
        table.add_column(heading, justify="left" if heading == "Classes" else "right")
    for score in scores:
        by_domain = [percent(score.domains.get(name)) for name in domains]
        table.add_row(score.classes, str(score.choices), str(score.images), percent(score.accuracy), *by_domain)
    return table
