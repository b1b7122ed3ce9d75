"""`feddtl compare --tune`: the rate of every method from one grid, on training images."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from cli.killable import KillableRuns
from cli.small_runs import Bench, Command, contents, outcome, refused, summary, write_photos

from feddtl.cli.experiment_argument import positionals
from feddtl.dotted import flatten

ROOT = Path(__file__).parents[2]
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


def tuning(folder: Path) -> dict[str, dict[str, Any]]:
    """The experiments in tuning.json."""
    found: dict[str, dict[str, Any]] = json.loads((folder / "tuning.json").read_text())["experiments"]
    return found


def _words(values: dict[str, float]) -> str:
    names = {"local.learning_rate": "rate", "server.learning_rate": "server-rate"}
    return "-".join(f"{names[key]}{value}" for key, value in values.items())


def test_each_choice_follows_from_the_runs_on_held_back_images(feddtl: Command, file: Path) -> None:
    answer = feddtl("compare", file, "--tune", *RATES, "--seeds", 3, 4, "--output", "out")
    assert answer.code == 0
    for name, criterion in (("m-feddtl", "base"), ("m-fedpgp", "local")):
        found = tuning(Path("out"))[name]
        runs = [summary(Path(f"out/tuning/{name}-{_words(one['values'])}-seed3")) for one in found["tried"]]
        assert {run["scored_on"] for run in runs} == {"held-back"}
        assert [one["mean"] for one in found["tried"]] == [run["final"][criterion] for run in runs]
        chosen = next(one["values"] for one in found["tried"] if one["mean"] == max(o["mean"] for o in found["tried"]))
        assert (found["criterion"], found["chosen"]) == (criterion, chosen)
        for seed in (3, 4):
            config = flatten(json.loads(Path(f"out/runs/{name}-seed{seed}/config.json").read_text()))
            assert {key: config[key] for key in chosen} == chosen
            assert config["evaluation.images"] == "test"
    # Two rates of FedDTL: two points, then one, and a fourth only if the server's rate changed.
    assert 3 <= tuning(Path("out"))["m-feddtl"]["points"] <= 4
    assert "11 cells, 11 to run" in answer.err
    line = r"\[ [13]/11\] (\w+) \(.*\), (.*), held-back images, seed 3  (base|local) +[\d.]+  \d"
    assert re.findall(line, answer.err) == [
        ("FedDTL", "rate 0.001, server rate 0.001", "base"),
        ("FedPGP", "rate 0.001", "local"),
    ]
    assert re.search(r"FedDTL \(m-feddtl\): best so far with rate [\d.]+, server rate 0\.001; 1 point ar", answer.err)
    assert re.search(r"FedDTL \(m-feddtl\): rate [\d.]+, server rate [\d.]+ chosen from [34] points", answer.err)
    assert "Chosen settings: accuracy in % on held-back training images, seed 3" in answer.out
    assert "There is nothing to choose in m-zero." in answer.out
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
    assert {name: list(found["chosen"]) for name, found in tuning(Path("out")).items()} == {
        "m-feddtl": ["local.learning_rate", "server.learning_rate"],
        "m-fedpgp": ["local.learning_rate"],
    }


def test_again_nothing_runs_and_elsewhere_everything_is_the_same(feddtl: Command, file: Path) -> None:
    command = ("compare", f"{file}::fedpgp", f"{file}::zero", "--tune", *RATES, "--rounds", 1, "--quiet")
    assert feddtl(*command, "--output", "one").code == feddtl(*command, "--output", "two").code == 0
    assert Path("one/tuning.json").read_bytes() == Path("two/tuning.json").read_bytes()
    for run in ("tuning/m-fedpgp-rate0.1-seed0", "runs/m-fedpgp-seed0"):
        assert outcome(Path("one") / run) == outcome(Path("two") / run)
    before = contents(Path("one"))
    assert feddtl(*command, "--output", "one").code == 0
    assert contents(Path("one")) == before


def command_of_the_page(flag: str) -> list[str]:
    """The words behind `feddtl` of the command in docs/how-to/compare.md that has a flag."""
    page = (ROOT / "docs/how-to/compare.md").read_text()
    blocks = [block.replace("\\\n", " ") for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)]
    [words] = [shlex.split(block)[1:] for block in blocks if f" {flag} " in block]
    return [str(ROOT / word) if word.startswith("experiments/") else word for word in words]


def test_the_page_s_command_on_few_images(
    bench: Bench, feddtl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rates with two values together are two points for both methods; the frozen blocks run for one of them."""
    monkeypatch.setenv("FEDDTL_CACHE", str(tmp_path / "cache"))
    photos = [word for word in bench.flags() if word not in ("--local.learning-rate", "0.01")]  # --tune chooses it
    few = (*photos, "--rounds", 1, "--data.domains", "", "--data.novel", "pairs", "--data.shots", 2)
    words = command_of_the_page("--tune-search")
    assert words[words.index("--tune-search") + 1] == "together"
    answer = feddtl(
        *words,
        *few,
        "--evaluation.held-back-share",
        0.5,
        "--tune-rates",
        0.001,
        0.1,
        "--seeds",
        0,
        "--output",
        "out",
        "--json",
    )
    assert answer.code == 0
    found = json.loads(answer.out)["tuning"]
    assert (found["format"], found["search"]) == (2, "together")
    assert {name: (own["points"], len(own["settings"])) for name, own in found["experiments"].items()} == {
        "shifted-feddtl": (2, 2),
        "shifted-fedlora": (2, 1),
    }
    data = json.loads(Path("out/tuning/shifted-fedlora-rate0.1-seed0/data.json").read_text())
    assert data["train_images"] == data["test_base_images"] == len(data["base_classes"])
    phases = {path.parent.name: phases_of(path) for path in Path("out/tuning").glob("*/summary.json")}
    first = "shifted-feddtl-rate0.001-server-rate0.001-seed0"
    assert {name for name, found in phases.items() if "prefix" in found} == {first}  # the others find its activations
    assert len(phases) == 4


def phases_of(file: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads(file.read_text())["seconds_by_phase"]
    return found


def test_flags_that_contradict_are_refused(feddtl: Command, file: Path) -> None:
    refused(feddtl("compare", file, "--tune-rates", 0.1, 0.01), "--tune-rates has no effect without --tune")
    refused(feddtl("compare", file, "--tune_seeds", 1), "--tune-seeds has no effect without --tune")
    refused(feddtl("compare", file, "--tune-search", "product"), "--tune-search has no effect without --tune")
    for flag in ("--local.learning-rate", "--server.learning-rate"):
        refused(feddtl("compare", file, "--tune", flag, 0.1), f"{flag} and --tune were both given", "--tune-grid names")
    refused(feddtl("compare", file, "--tune", *RATES, "--tune-grid", "lora.rank=2,4"), "--tune-rates and --tune-grid")
    refused(feddtl("compare", file, "--tune", "--tune-grid", "lora.rank"), "--tune-grid 'lora.rank' is not of the form")
    refused(feddtl("compare", file, "--tune", "--tune-grid", "seed=1,2"), "tune_grid has seed, which belongs to what")
    refused(feddtl("compare", file, "--tune", "--tune-grid", "lora.rnk=1,2"), "lora.rnk", "Did you mean 'rank'?")
    refused(feddtl("compare", file, "--tune", "--tune-rates", 0.1), "two or more, each once")
    refused(feddtl("compare", file, "--tune", "--tune-rates", 0.1, 3), "above 0, up to 1")
    refused(feddtl("compare", file, "--tune", "--evaluation.images", "held-back"), "which --tune uses by itself")
    file.write_text(file.read_text().partition("[variants]")[0] + "[grid]\nlocal.learning_rate = [0.1, 0.01]\n")
    refused(feddtl("compare", file, "--tune"), "differ only in local.learning_rate", "--tune-rates")
    assert not Path("runs").exists()


def test_files_are_found_among_the_flags_of_tuning() -> None:
    words = ["a.toml", "--tune", "b.toml", "--tune-rates", "1e-3", "1e-2", "--tune-seeds", "1", "2", "--quiet"]
    words += ["--tune-grid", "a=1,2", "b=3,4", "--tune-search", "product", "--json"]
    assert list(positionals(words)) == ["a.toml", "b.toml"]


@pytest.mark.slow
def test_killed_before_many_storage_operations(processes: KillableRuns, file: Path, tmp_path: Path) -> None:
    """Each process gets a little further; whatever is left can always be gone on with."""
    words, number = ["compare", f"{file}::feddtl", "--tune", *RATES, "--rounds", 1, "--output", tmp_path / "out"], 1
    while (code := processes.run(words, die_before=number)) != 0:
        assert code == -9
        number += 13
    assert number > 60
    assert tuning(tmp_path / "out")["m-feddtl"]["points"] in (3, 4)
    assert len(json.loads((tmp_path / "out/comparison.json").read_text())["runs"]) == 1
