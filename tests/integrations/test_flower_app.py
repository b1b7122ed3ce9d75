"""The app folder: what `flwr run` reads, and what the run configuration must hold."""

from __future__ import annotations

import importlib
import json
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs the extra [flower]: make test-flower")

from cli.small_runs import CLIENTS, make_bench, records, summary
from flwr.app import Context, RecordDict
from runtimes.in_memory_grid import InMemoryGrid

from feddtl.errors import ConfigError
from feddtl.experiment_file import experiment_to_dict

FOLDER = Path(__file__).parents[2] / "integrations" / "flower"


@pytest.fixture(scope="module")
def settings():
    """`[tool.flwr.app]` of the app."""
    return tomllib.loads((FOLDER / "pyproject.toml").read_text())["tool"]["flwr"]["app"]


@pytest.fixture
def load(settings, monkeypatch):
    """Loads a component as Flower does, MODULE:ATTRIBUTE."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def component(name):
        module, _, attribute = settings["components"][name].partition(":")
        assert Path(importlib.import_module(module).__file__).is_relative_to(FOLDER)
        return getattr(sys.modules[module], attribute)

    return component


def context(app, /, **changes):
    return Context(1, 1, {}, RecordDict(), {**app["config"], **changes})


def test_a_run_by_the_run_configuration_and_its_resumption(settings, load, tmp_path, monkeypatch):
    """An experiment file of two variants: `resume` of a finished run leaves it as it is."""
    monkeypatch.setenv("FEDDTL_STATE", str(tmp_path / "state"))
    bench = make_bench(tmp_path / "bench")
    file = tmp_path / "two.toml"
    file.write_text(
        f"model = {str(bench.clip)!r}\nrounds = 2\n"
        f"[data]\nsource = {str(bench.photos)!r}\nclients = {CLIENTS}\nclass_split = 'half'\n"
        "[variants.plain]\nmethod = 'fedlora'\n[variants.personal]\nmethod = 'fedpgp'\n"
    )
    grid = InMemoryGrid(load("clientapp"), range(CLIENTS))
    asked = {"experiment": f"{file}::personal", "output": str(tmp_path / "run")}
    load("serverapp")(grid, context(settings, **asked))
    assert summary(tmp_path / "run")["method"] == "fedpgp"
    assert [record["round"] for record in records(tmp_path / "run")] == [1, 2]
    sent = len(grid.sent)
    load("serverapp")(grid, context(settings, **asked, resume=True))
    assert len(grid.sent) == sent


def test_settings_in_the_place_of_a_file(settings, load, tmp_path):
    """The experiment as JSON; a file beside it, or what is no JSON, is refused."""
    bench = make_bench(tmp_path / "bench")
    asked = json.dumps(experiment_to_dict(bench.experiment(rounds=1, method="fedlora")))
    grid = InMemoryGrid(load("clientapp"), range(CLIENTS))
    load("serverapp")(grid, context(settings, settings=asked, output=str(tmp_path / "run"), track="tensorboard"))
    assert [record["round"] for record in records(tmp_path / "run")] == [1]
    assert len(list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))) == 1
    with pytest.raises(ConfigError, match="There is no tracker 'tensorbord'"):
        load("serverapp")(grid, context(settings, settings=asked, output=str(tmp_path / "no"), track="tensorbord"))
    for wrong in ({"settings": asked, "experiment": "a.toml"}, {"settings": "{"}):
        with pytest.raises(ConfigError, match="run configuration"):
            load("serverapp")(grid, context(settings, output=str(tmp_path / "other"), **wrong))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("key", ["experiment", "output"])
def test_a_missing_path_is_named(settings, load, key):
    given = {"experiment": "a.toml", "output": "b", key: ""}
    with pytest.raises(ConfigError, match=f"has no {key}") as caught:
        load("serverapp")(InMemoryGrid(load("clientapp"), []), context(settings, **given))
    assert "flwr run . --run-config" in caught.value.hint
