"""Write docs/reference/configuration.md from the dataclasses of `feddtl.config`.

Types, bounds and defaults come from the dataclasses, meanings from the docstrings after the fields.

Run: python scripts/write_config_reference.py
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from feddtl.checks import field_hints, words_of
from feddtl.cli.help_flags import field_docstrings
from feddtl.config import Experiment
from feddtl.methods.tables import MethodTables, settings_types

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "configuration.md"
TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false"}

INTRODUCTION = """\
<!-- Written by scripts/write_config_reference.py from the settings in src/feddtl. Do not edit. -->
# Configuration

Every setting has one name. It is the key in an experiment file and the flag on the command line:

| in the file | on the command line |
|---|---|
| `rounds = 20` above the first table | `--rounds 20` |
| `shots = 16` under `[data]` | `--data.shots 16` |
| `min_images = 8` under `[data]` | `--data.min-images 8` |

Flags override the file, and the file overrides the defaults below. An unknown key or a value out of range is
refused with one error that names it. "paper" is the value of the FedDTL paper; "ours" marks what the paper
leaves open, see [paper fidelity](../paper-fidelity.md). `config.json` in a
[run folder](run-folder.md) contains every setting with the value that was used.

Whole experiment files are in [experiments/](../../experiments/); the shortest is
[quickstart.toml](../../experiments/quickstart.toml).
"""


def value_text(value: Any) -> str:
    """A value as in a TOML file."""
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def table(kind: type, prefix: str) -> list[str]:
    """Markdown table of a dataclass's own fields, without its nested tables."""
    hints, meanings = field_hints(kind), field_docstrings(kind)
    lines = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        hint, bounds = hints[field.name]
        if dataclasses.is_dataclass(hint):
            continue
        if get_origin(hint) is Literal:
            values = ", ".join(f"`{value_text(choice)}`" for choice in get_args(hint))
        else:
            values = ", ".join(bound.words for bound in bounds) or TYPES[hint]
            values += "".join(f", or `{value_text(word)}`" for word in words_of(hint))
        cells = (f"`{prefix}{field.name}`", f"`{value_text(field.default)}`", values, meanings[field.name])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def render() -> str:
    """The whole page."""
    parts = [INTRODUCTION, "## Top level\n", *table(Experiment, ""), ""]
    for name, kind in {**get_type_hints(Experiment), **settings_types()}.items():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind is not MethodTables:
            title = str(kind.__doc__).splitlines()[0]
            parts += [f"## `[{name}]`\n", f"{title}\n", *table(kind, f"{name}."), ""]
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
