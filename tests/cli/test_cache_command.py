"""`feddtl cache`: what runs keep for one another, and how it goes away."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli.small_runs import Bench, Command

from feddtl.backbones.clip import load_clip
from feddtl.models.model_files import MODELS


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDDTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_run_fills_it_and_the_next_one_reads_no_image(bench: Bench, feddtl: Command, own_folder: Path) -> None:
    flags = ("--compute.precision", "float32", "--rounds", 2)
    assert feddtl("run", *bench.flags(*flags, "--output", "first")).code == 0
    listed = json.loads(feddtl("cache", "--json").out)
    assert listed["folder"] == str(own_folder)
    [entry] = listed["contents"]
    assert entry["images"] > 0
    assert entry["nbytes"] > 0
    assert (own_folder.stat().st_mode & 0o777) == 0o700
    # Another method that leaves the same blocks alone uses the same activations: nothing goes through the prefix.
    assert feddtl("run", *bench.flags(*flags, "--method", "fedlora", "--output", "second")).code == 0
    assert json.loads(feddtl("cache", "--json").out)["contents"][0]["images"] == entry["images"]
    phases = json.loads(Path("second/summary.json").read_text())["seconds_by_phase"]
    assert phases.get("prefix", 0.0) == 0.0


def test_table_and_clearing(bench: Bench, feddtl: Command, own_folder: Path) -> None:
    feddtl("run", *bench.flags("--rounds", 2, "--output", "run"))
    shown = feddtl("cache").out
    for text in ("Model", "Images", "ago", str(own_folder)):
        assert text in shown
    assert "freed" in feddtl("cache", "--clear").out
    assert json.loads(feddtl("cache", "--json").out)["contents"] == []
    assert not (own_folder / "kernels.json").exists()


def test_clearing_forgets_what_is_remembered_of_models(feddtl: Command, own_folder: Path) -> None:
    load_clip("tiny-clip", towers={"image"}, remembered_in=own_folder)
    assert (own_folder / MODELS).exists()
    feddtl("cache", "--clear")
    assert not (own_folder / MODELS).exists()


def test_folders_of_others_are_left_alone(bench: Bench, feddtl: Command, own_folder: Path) -> None:
    """A cache folder in which somebody else keeps things, and a namespace whose description is lost."""
    feddtl("run", *bench.flags("--rounds", 2, "--output", "run"))
    foreign = own_folder / "dataset" / "meta.json"
    foreign.parent.mkdir()
    foreign.write_text("[]")
    [meta] = [path for path in own_folder.glob("*/meta.json") if path != foreign]
    meta.unlink()
    [entry] = json.loads(feddtl("cache", "--json").out)["contents"]
    assert (entry["identity"], entry["images"] > 0) == ({}, True)
    assert "?" in feddtl("cache").out
    feddtl("cache", "--clear")
    assert foreign.read_text() == "[]"
    assert not meta.parent.exists()


def test_a_run_is_scored_where_its_cache_folder_cannot_exist(
    bench: Bench, feddtl: Command, own_folder: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    feddtl("run", *bench.flags("--rounds", 2, "--output", "run", "--compute.cache-folder", there))
    shutil.rmtree(there)
    there.write_text("a file")
    assert feddtl("evaluate", "run").code == 0
    assert any(own_folder.iterdir())


def test_an_empty_and_a_switched_off_cache(feddtl: Command, own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "0.0 kB in" in feddtl("cache").out
    assert not own_folder.exists()
    monkeypatch.setenv("FEDDTL_CACHE", "off")
    answer = feddtl("cache")
    assert answer.code == 1
    assert "'off'" in answer.err
