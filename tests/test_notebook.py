"""The notebook: as a user opens it, without outputs, and every cell runs."""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import re
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import pytest

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples" / "quickstart.ipynb"
CONTENT: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
CODE = [("".join(cell["source"]), cell["id"]) for cell in CONTENT["cells"] if cell["cell_type"] == "code"]


def test_outputs_are_stripped() -> None:
    assert (CONTENT["nbformat"], CONTENT["nbformat_minor"]) == (4, 5)
    for cell in CONTENT["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_every_name_is_there_when_a_cell_uses_it() -> None:
    """Names are read cell by cell, and every attribute of a module is looked up in it."""
    known, modules = set(dir(builtins)), {}
    for source, cell in CODE:
        tree = ast.parse(source, cell)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules |= {alias.asname or alias.name: importlib.import_module(alias.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.module
                module = importlib.import_module(node.module)
                modules |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                known.add(node.name)
            elif isinstance(node, ast.arg):
                known.add(node.arg)
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        known |= modules.keys() | {node.id for node in names if isinstance(node.ctx, ast.Store)}
        assert {node.id for node in names} <= known, cell
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                assert hasattr(modules[node.value.id], node.attr), f"{node.value.id}.{node.attr} in {cell}"


def test_every_link_leads_somewhere() -> None:
    text = "".join("".join(cell["source"]) for cell in CONTENT["cells"] if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    assert [link for link in links if not (NOTEBOOK.parent / link).exists()] == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")
def test_every_cell_runs_in_less_than_two_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    matplotlib.use("agg")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    module = ModuleType("notebook")
    started = time.process_time()
    for source, cell in CODE:
        exec(compile(source, cell, "exec"), vars(module))
    # Of one thread, so that other work on the machine does not count.
    assert time.process_time() - started < 120
    said = capsys.readouterr().out
    assert said.count("round 6") == 2
    assert vars(module)["summary"].final["base"] > 40
    assert (vars(module)["runs"] / "adapted-clip" / "config.json").is_file()
