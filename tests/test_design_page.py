"""docs/explanation/design.md names every module, in the order in which they may import each other."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "feddtl"


def rows():
    """The modules of each row of the table, from the top."""
    text = (ROOT / "docs" / "explanation" / "design.md").read_text().split("## The packages")[1].split("## Choices")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [re.findall(r"`(feddtl\.\w+)`", cell) for cell in cells]


def layers():
    """Modules with the height of their layer, 0 the lowest."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (lines,) = [contract["layers"] for contract in contracts if contract["name"] == "Imports go one way"]
    return {module.strip(): height for height, line in enumerate(reversed(lines)) for module in line.split("|")}


def test_every_module_has_one_place():
    there = {f"feddtl.{path.stem}" for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    there |= {f"feddtl.{path.stem}" for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
    named = [module for row in rows() for module in row]
    assert sorted(named) == sorted(there)


def test_no_row_imports_from_a_row_below_it():
    """Equal layers may not import each other, so rows of one layer may stand in any order."""
    heights = [[layers()[module] for module in row] for row in rows()]
    for above, below in pairwise(heights):
        assert max(above) <= min(below)
