"""`feddtl partition`: who gets what, as a table, as JSON and as a plot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli.small_runs import CLASSES, Bench, Command, write_photos
from PIL import Image

from feddtl.cli.commands.partition import merged


def test_table(bench: Bench, feddtl: Command) -> None:
    """Three clients, each with the five images of one base class and its three test images."""
    answer = feddtl("partition", *bench.flags())
    assert answer.code == 0
    rows = [line.strip("│").split("│") for line in answer.out.splitlines() if line.startswith("│")]
    clients, classes = rows[:3], [[cell.strip() for cell in row] for row in rows[3:]]
    assert [[c.strip() for c in row[:4]] for row in clients] == [[str(client), "5", "3", "1"] for client in range(3)]
    assert sorted(row[4][1:4] for row in clients) == ["  █", " █ ", "█  "]
    assert [row[:4] for row in classes] == [
        *([name, "trained", "5", "3"] for name in CLASSES[:3]),
        *([name, "novel", "–", "3"] for name in CLASSES[3:]),
    ]
    assert [sorted(row[4:]) for row in classes] == [["", "", "5"]] * 3 + [["", "", ""]] * 3
    assert "note: Fewer than 16 training images" in answer.err
    assert "fewer than 10 test images: base (9), novel (9), local of clients 0, 1 and 2 (3)" in answer.err
    assert "The first class is 'ant'" in answer.out
    assert not Path("runs").exists()


def test_json(bench: Bench, feddtl: Command, finished: Path) -> None:
    """The same division as a run's."""
    answer = feddtl("partition", *bench.flags("--json"))
    found = json.loads(answer.out)
    assert found["base_classes"] == ["ant", "bee", "cat"]
    assert found["prompt_templates"] == ["a photo of a {class}."]
    counts = np.array(found["images_per_client_and_class"])
    assert counts.sum(axis=0).tolist() == [5, 5, 5]
    assert counts.tolist() == json.loads((finished / "data.json").read_text())["images_per_client_and_class"]
    assert answer.err == ""
    assert np.array(found["test_images_per_client_and_class"]).sum(axis=0).tolist() == [3, 3, 3]


def test_json_has_all_classes(bench: Bench, feddtl: Command) -> None:
    lists = ("--data.class-split", "auto", "--data.classes", "fox,ant", "--data.novel-classes", "cat")
    found = json.loads(feddtl("partition", *bench.flags("--json", "--data.clients", 2, *lists)).out)
    assert [tuple(row.values()) for row in found["classes"]] == [
        ("fox", "trained", 5, 3),
        ("ant", "trained", 5, 3),
        ("cat", "novel", 0, 3),
        *((name, "unused", 0, 0) for name in ("bee", "dog", "elk")),
    ]
    assert found["unused_classes"] == ["bee", "dog", "elk"]


def test_many_clients_are_named_in_one_column(bench: Bench, feddtl: Command) -> None:
    flags = bench.flags("--data.clients", 15, "--data.partition", "iid")
    out = " ".join(feddtl("partition", *flags).out.replace("│", " ").split())
    assert "Training images by client" in out
    assert out.count("trained 5 3") == 3


def test_experiment_file_and_flags(bench: Bench, feddtl: Command) -> None:
    Path("mine.toml").write_text(f"[data]\nsource = '{bench.photos}'\nclients = 3\npartition = 'iid'\n")
    counts = np.array(
        json.loads(feddtl("partition", "--json", "mine.toml", "--data.clients", 5).out)["images_per_client_and_class"]
    )
    assert counts.shape == (5, 6)
    assert counts.sum(axis=1).tolist() == [6] * 5


@pytest.mark.parametrize("name", ["map.png", "deep/map.svg", "map.pdf"])
def test_plot(bench: Bench, feddtl: Command, name: str) -> None:
    answer = feddtl("partition", *bench.flags("--plot", name))
    assert answer.code == 0
    assert f"heat map: {name}" in answer.err
    assert Path(name).stat().st_size > 1000
    if name.endswith(".png"):
        assert Image.open(name).size[0] > 300


def test_more_classes_than_a_line_has_room_for(bench: Bench, feddtl: Command, tmp_path: Path) -> None:
    """75 base classes on 80 columns: two classes a cell, and no column is cut."""
    photos = write_photos(tmp_path / "wide", classes=[f"kind {number:03d}" for number in range(150)], train=1, test=1)
    answer = feddtl("partition", *bench.flags("--data.source", photos))
    lines = answer.out.splitlines()
    assert max(len(line) for line in lines if line.startswith(("│", "┃"))) <= 80
    assert "…" not in answer.out
    assert "A cell is 2 neighbouring classes" in answer.out


def test_merged_classes() -> None:
    counts = np.array([[1, 2, 3, 4, 5], [0, 0, 1, 0, 0]])
    assert merged(counts, 1).tolist() == counts.tolist()
    assert merged(counts, 2).tolist() == [[3, 7, 5], [0, 1, 0]]


def test_names_with_brackets_are_text(bench: Bench, feddtl: Command, tmp_path: Path) -> None:
    """Brackets are markup to the table printer, but not in a user's folder names."""
    photos = write_photos(tmp_path / "photos [old]")
    assert "photos [old]" in feddtl("partition", *bench.flags("--data.source", photos)).out
