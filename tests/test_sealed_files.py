"""Checksums inside JSON files: no damage is believed, and the files stay JSON for other tools."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edited_runs import change, without_seals
from made_records import made_record

from feddtl.config import Experiment
from feddtl.errors import FeddtlError, RunError
from feddtl.experiment_file import experiment_to_dict
from feddtl.run_files import read_data, read_experiment, read_metrics, read_table
from feddtl.run_origin import recorded_model, write_origin
from feddtl.sealed_files import sealed_lines, write_sealed
from feddtl.storage import json_text

READ: dict[str, Callable[[Path], Any]] = {
    "config.json": lambda folder: read_experiment(folder / "config.json"),
    "environment.json": lambda folder: read_table(folder / "environment.json"),
    "origin.json": recorded_model,
    "data.json": lambda folder: read_data(folder / "data.json"),
    "metrics.jsonl": read_metrics,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a run that can be read without it."""
    run = tmp_path / "run"
    run.mkdir()
    write_sealed(run / "config.json", experiment_to_dict(Experiment(rounds=3)))
    write_sealed(run / "environment.json", {"python": "3.12", "kernels": {"precision": "float32"}})
    write_origin(run, {"weights": "ab" * 32})
    data = {"dataset": "pets", "prompt_template": "{}", "base_classes": ["é"], "novel_classes": []}
    write_sealed(run / "data.json", {**data, "train_images": 12})
    lines = (json_text(made_record(number).to_dict(), indent=None) for number in (1, 2))
    (run / "metrics.jsonl").write_text(sealed_lines(lines))
    return run


@pytest.mark.parametrize("name", READ)
def test_no_damaged_byte_is_believed(folder: Path, name: str) -> None:
    """Changed, lost or doubled: 80 random bytes of each file, and all of the last ones, three ways."""
    file, draw = folder / name, random.Random(name)
    whole = file.read_bytes()
    as_written = READ[name](folder)
    for position in (*draw.choices(range(len(whole)), k=80), *range(len(whole) - 12, len(whole))):
        kept, letter, rest = whole[:position], whole[position : position + 1], whole[position + 1 :]
        other = draw.choice([bytes([code]) for code in range(256) if code != letter[0]])
        for damaged in (kept + other + rest, kept + rest, kept + letter + letter + rest):
            if damaged == whole:
                continue
            file.write_bytes(damaged)
            with pytest.raises(FeddtlError) as caught:
                READ[name](folder)
            assert str(file) in caught.value.message
            assert caught.value.hint
    file.write_bytes(whole)
    assert READ[name](folder) == as_written


def test_the_checksum_is_of_all_bytes_before_it(folder: Path) -> None:
    """So that other tools can check it, with the command of the documentation."""
    for name in READ:
        content, end = (folder / name).read_bytes(), 0
        for line in content.splitlines(keepends=True) if name.endswith("l") else [content]:
            values = json.loads(line)
            before = (
                content[: content.index(b'"sha256": "' + values["sha256"].encode(), end)].rstrip().removesuffix(b",")
            )
            assert list(values)[-1] == "sha256"
            assert hashlib.sha256(before).hexdigest() == values["sha256"]
            end += len(line)


@pytest.mark.parametrize("kept", [(1,), (1, 0), (0, 0, 1)], ids=["first lost", "swapped", "doubled"])
def test_lines_that_are_lost_or_in_another_order(folder: Path, kept: tuple[int, ...]) -> None:
    """A line's checksum is of those before it, too; of a run that goes on, the last line is the latest round."""
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[index] for index in kept))
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged: it does not match its checksum") as caught:
        read_metrics(folder)
    assert f"`rm {file}`, then `feddtl run --resume {folder}`" in caught.value.hint
    file.write_text(lines[0])
    assert len(read_metrics(folder)) == 1


@pytest.mark.parametrize("name", READ)
def test_a_checksum_taken_out(folder: Path, name: str) -> None:
    """Of one file: an error. Of all: a run of an earlier version, which is read."""
    whole, as_written = shutil.copytree(folder, folder.parent / "whole"), READ[name](folder)
    without_seals(folder)
    assert READ[name](folder) == as_written
    if name != "config.json":
        shutil.copy(whole / "config.json", folder)
        with pytest.raises(RunError, match=rf"{name} is damaged: its checksum is missing"):
            READ[name](folder)


def test_a_file_without_checksum_has_none_that_is_wrong(folder: Path) -> None:
    """A run of an earlier version that was resumed: its newer files have a checksum, which must be right."""
    change(folder / "data.json", lambda data: data.update(train_images=13))
    assert read_data(folder / "data.json")["train_images"] == 13
    (folder / "config.json").write_text(json.dumps(experiment_to_dict(Experiment(rounds=3))))
    for end in ('"sha256": "ab"}', '"sha256": 3}'):
        (folder / "data.json").write_text(json.dumps({"dataset": "pets"})[:-1] + f", {end}\n")
        with pytest.raises(RunError, match="checksum"):
            read_data(folder / "data.json")
