"""`feddtl compare --tune`: the rate of every method from one grid, on training images."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli.killable import KillableRuns
from cli.small_runs import Bench, Command, contents, outcome, refused, summary, write_photos

from feddtl.cli.experiment_argument import positionals

RATES = ("--tune-rates", 0.001, 0.1)


def write_methods(path: Path, source: object, model: object, **settings: object) -> Path:
    """FedDTL, a method with personal tensors, and zero-shot, in a file of variants."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    path.write_text(
        "\n".join(
            [
                *lines,
                f'model = "{model}"',
                f'data.source = "{source}"',
                'data.class_split = "half"',
                "data.clients = 3",
                'compute.precision = "float32"',
                'compute.attention = "sdpa"',
                "[variants]",
                'feddtl = { method = "feddtl" }',
                'fedpgp = { method = "fedpgp" }',
                'zero = { method = "zero-shot" }',
            ]
        )
    )
    return path


@pytest.fixture
def file(bench: Bench, tmp_path: Path) -> Path:
    return write_methods(tmp_path / "m.toml", bench.photos, bench.clip, rounds=2)


def tuning(folder: Path) -> dict[str, dict[str, object]]:
    """The experiments in tuning.json."""
    found: dict[str, dict[str, object]] = json.loads((folder / "tuning.json").read_text())["experiments"]
    return found


def test_each_choice_follows_from_the_runs_on_held_back_images(feddtl: Command, file: Path) -> None:
    answer = feddtl("compare", file, "--tune", *RATES, "--seeds", 3, 4, "--output", "out")
    assert answer.code == 0
    for name, criterion in (("m-feddtl", "base"), ("m-fedpgp", "local")):
        runs = {rate: summary(Path(f"out/tuning/{name}-rate{rate}-seed3")) for rate in ("0.001", "0.1")}
        assert {run["scored_on"] for run in runs.values()} == {"held-back"}
        scores = {rate: run["final"][criterion] for rate, run in runs.items()}
        best = max(scores, key=lambda rate: (scores[rate], -float(rate)))
        found = tuning(Path("out"))[name]
        assert (found["criterion"], found["rate"], found["mean"]) == (criterion, float(best), scores)
        for seed in (3, 4):
            config = json.loads(Path(f"out/runs/{name}-seed{seed}/config.json").read_text())
            assert (config["local"]["learning_rate"], config["evaluation"]["images"]) == (float(best), "test")
            assert config["server"]["learning_rate"] == 0.001
    assert "10 cells, 10 to run" in answer.err
    line = r"\[ [13]/10\] (\w+) \(.*\), rate 0\.001, held-back images, seed 3  (base|local) +[\d.]+  \d"
    assert re.findall(line, answer.err) == [("FedDTL", "base"), ("FedPGP", "local")]
    assert "FedDTL (m-feddtl): rate 0.1 chosen" in answer.err or "FedDTL (m-feddtl): rate 0.001 chosen" in answer.err
    assert "Chosen rates: accuracy in % on held-back training images, seed 3" in answer.out
    assert "Nothing is trained, so there is no rate to choose, in m-zero." in answer.out
    assert "out has table.md, table.tex, table.csv, comparison.json, tuning.json" in answer.out


def test_no_test_image_is_read_for_a_choice(bench: Bench, feddtl: Command, tmp_path: Path) -> None:
    """Test images that cannot be read stop the cells of the comparison alone."""
    photos = write_photos(tmp_path / "photos")
    for image in (photos / "test").rglob("*.png"):
        image.write_bytes(b"no image")
    file = write_methods(tmp_path / "m.toml", photos, bench.clip, rounds=1)
    answer = feddtl("compare", file, "--tune", *RATES, "--output", "out", "--compute.cache-folder", "off")
    assert answer.code == 1
    assert "error: 3 of 3 cells failed" in answer.err
    assert {name: found["error"] for name, found in tuning(Path("out")).items()} == {"m-feddtl": "", "m-fedpgp": ""}
    assert all(found["rate"] in (0.001, 0.1) for found in tuning(Path("out")).values())


def test_again_nothing_runs_and_elsewhere_everything_is_the_same(feddtl: Command, file: Path) -> None:
    command = ("compare", f"{file}::fedpgp", f"{file}::zero", "--tune", *RATES, "--rounds", 1, "--quiet")
    assert feddtl(*command, "--output", "one").code == feddtl(*command, "--output", "two").code == 0
    assert Path("one/tuning.json").read_bytes() == Path("two/tuning.json").read_bytes()
    for run in ("tuning/m-fedpgp-rate0.1-seed0", "runs/m-fedpgp-seed0"):
        assert outcome(Path("one") / run) == outcome(Path("two") / run)
    before = contents(Path("one"))
    assert feddtl(*command, "--output", "one").code == 0
    assert contents(Path("one")) == before


def test_generated_shapes(feddtl: Command, tmp_path: Path) -> None:
    file = write_methods(tmp_path / "m.toml", "shapes", "tiny-clip", rounds=1)
    few = ("--data.shots", 2, "--data.test-images-per-class", 1, "--evaluation.held-back-share", 0.5)
    answer = feddtl("compare", f"{file}::feddtl", "--tune", *RATES, *few, "--output", "out", "--json")
    assert answer.code == 0
    found = json.loads(answer.out)["tuning"]
    assert found["experiments"]["m-feddtl"]["rate"] in (0.001, 0.1)
    data = json.loads(Path("out/tuning/m-feddtl-rate0.1-seed0/data.json").read_text())
    assert data["train_images"] == data["test_base_images"] == len(data["base_classes"])


def test_flags_that_contradict_are_refused(feddtl: Command, file: Path) -> None:
    refused(feddtl("compare", file, "--tune-rates", 0.1, 0.01), "--tune-rates has no effect without --tune")
    refused(feddtl("compare", file, "--tune_seeds", 1), "--tune-seeds has no effect without --tune")
    refused(feddtl("compare", file, "--tune", "--local.learning-rate", 0.1), "--tune chooses the rate")
    refused(feddtl("compare", file, "--tune", "--tune-rates", 0.1), "two or more, each once")
    refused(feddtl("compare", file, "--tune", "--tune-rates", 0.1, 3), "above 0, up to 1")
    refused(feddtl("compare", file, "--tune", "--evaluation.images", "held-back"), "which --tune uses by itself")
    file.write_text(file.read_text().partition("[variants]")[0] + "[grid]\nlocal.learning_rate = [0.1, 0.01]\n")
    refused(feddtl("compare", file, "--tune"), "differ only in local.learning_rate", "--tune-rates")
    assert not Path("runs").exists()


def test_files_are_found_among_the_flags_of_tuning() -> None:
    words = ["a.toml", "--tune", "b.toml", "--tune-rates", "1e-3", "1e-2", "--tune-seeds", "1", "2", "--quiet"]
    assert list(positionals(words)) == ["a.toml", "b.toml"]


@pytest.mark.slow
def test_killed_before_many_storage_operations(processes: KillableRuns, file: Path, tmp_path: Path) -> None:
    """Each process gets a little further; whatever is left can always be gone on with."""
    words, number = ["compare", f"{file}::feddtl", "--tune", *RATES, "--rounds", 1, "--output", tmp_path / "out"], 1
    while (code := processes.run(words, die_before=number)) != 0:
        assert code == -9
        number += 13
    assert number > 60
    assert tuning(tmp_path / "out")["m-feddtl"]["rate"] in (0.001, 0.1)
    assert len(json.loads((tmp_path / "out/comparison.json").read_text())["runs"]) == 1
