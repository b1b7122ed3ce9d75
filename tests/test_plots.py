"""Plots: what is drawn, and that the same numbers give the same file."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_records import made_record
from PIL import Image

from feddtl import plots
from feddtl.errors import ConfigError, RunError
from feddtl.plots import accuracy_curves, partition_heat_map

RECORDS = [
    made_record(1, stage="sft", base=40.0, novel=50.0),
    made_record(2, stage="sft"),
    made_record(3, stage="rl", base=60.0, novel=55.0),
    made_record(4, stage="rl", base=65.0, novel=56.0),
]
ZERO_SHOT = {"base": 35.0, "novel": 38.0}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures as they are saved."""
    seen: list[Any] = []
    save = plots._save

    def keep(figure: Any, path: Path) -> None:
        seen.append(figure)
        save(figure, path)

    monkeypatch.setattr(plots, "_save", keep)
    return seen


def draw(path: Path) -> None:
    partition_heat_map(np.arange(12).reshape(3, 4), ["ant", "bee", "cat", "dog"], "photos", path)


def test_heat_map(tmp_path: Path, figures: list[Any]) -> None:
    draw(tmp_path / "map.png")
    axes = figures[0].axes[0]
    image = axes.get_images()[0]
    assert image.get_array().tolist() == np.arange(12).reshape(3, 4).tolist()
    assert image.norm.vmin == 0  # white is none, whatever the smallest count
    assert [label.get_text() for label in axes.get_yticklabels()] == ["client 0", "client 1", "client 2"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ant", "bee", "cat", "dog"]
    assert axes.get_title() == "photos"


@pytest.mark.parametrize("novel", [0, 3, 12])
def test_nobody_trains_on_novel_classes(tmp_path: Path, figures: list[Any], novel: int) -> None:
    """Their columns are shaded, and say why they are empty where there is room."""
    names = [f"kind {number}" for number in range(2 + novel)]
    partition_heat_map(np.ones((3, 2), np.int64), names, "few", tmp_path / "map.png")
    axes = figures[0].axes[0]
    shaded = [tuple(path.get_extents().extents) for shade in axes.collections for path in shade.get_paths()]
    assert shaded == ([(1.5, -0.5, 1.5 + novel, 2.5)] if novel else [])
    assert [text.get_text() for text in axes.texts] == ["no client trains on novel classes"] * (novel >= 12)


def test_heat_map_of_many_classes_names_some(tmp_path: Path, figures: list[Any]) -> None:
    partition_heat_map(np.ones((2, 500), np.int64), [f"kind {i}" for i in range(500)], "many", tmp_path / "map.png")
    labels = [label.get_text() for label in figures[0].axes[0].get_xticklabels()]
    assert 30 <= len(labels) <= 60
    assert labels[:2] == ["kind 0", "kind 12"]


def test_curves(tmp_path: Path, figures: list[Any]) -> None:
    """A point for each scored round, zero-shot as a level, the RL rounds as a band."""
    accuracy_curves(RECORDS, ZERO_SHOT, "photos", tmp_path / "curves.png")
    axes = figures[0].axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["base"].get_xdata()) == [1, 3, 4]
    assert list(lines["novel"].get_ydata()) == [50.0, 55.0, 56.0]
    assert set(lines["base, zero-shot"].get_ydata()) == {35.0}
    assert "RL rounds" in [text.get_text() for text in axes.get_legend().get_texts()]
    band = next(patch for patch in axes.patches if patch.get_label() == "RL rounds")
    assert (band.get_x(), band.get_x() + band.get_width()) == (2.5, 4.5)


def test_accuracy_over_virtual_time(tmp_path: Path, figures: list[Any]) -> None:
    """A point for each scored round, at its virtual second and not at its number."""
    records = [replace(record, virtual_seconds=2.5 * record.round**2) for record in RECORDS]
    accuracy_curves(records, ZERO_SHOT, "photos", tmp_path / "time.svg", virtual_time=True)
    axes = figures[0].axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["base"].get_xdata()) == [2.5, 22.5, 40.0]
    assert list(lines["base"].get_ydata()) == [40.0, 60.0, 65.0]
    assert set(lines["novel, zero-shot"].get_ydata()) == {38.0}
    assert axes.get_xlabel() == "virtual seconds"
    assert not axes.patches


def test_curves_without_rl(tmp_path: Path) -> None:
    accuracy_curves(RECORDS[:2], ZERO_SHOT, "photos", tmp_path / "curves.svg")
    assert "RL rounds" not in (tmp_path / "curves.svg").read_text()


def test_curves_without_novel_classes_and_with_hollow_points(tmp_path: Path) -> None:
    """Drawn twice, because a resumed run must end with the same file."""
    records = [made_record(number, base=40.0 + number, novel=None, harmonic_mean=None) for number in (1, 2)]
    for name in ("one.svg", "two.svg"):
        accuracy_curves(
            records, {"base": 35.0, "novel": math.nan}, "photos", tmp_path / name, hollow=[2], caption="Two.", images={}
        )
    drawn = (tmp_path / "one.svg").read_text()
    assert drawn.endswith("</svg>\n")
    assert drawn == (tmp_path / "two.svg").read_text()


@pytest.mark.parametrize("ending", [".svg", ".png", ".pdf", ".SVG"])
def test_same_numbers_same_file(tmp_path: Path, ending: str) -> None:
    for name in ("one", "two"):
        draw(tmp_path / f"{name}{ending}")
    assert (tmp_path / f"one{ending}").read_bytes() == (tmp_path / f"two{ending}").read_bytes()


def test_a_png_can_be_read(tmp_path: Path) -> None:
    draw(tmp_path / "new" / "folder" / "map.png")
    assert min(Image.open(tmp_path / "new" / "folder" / "map.png").size) > 200


def test_bad_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"map\.gif"):
        draw(tmp_path / "map.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Cannot write"):
        draw(tmp_path / "file" / "map.png")
