"""A run that starts from another run's model: what it takes, to the last bit, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli.small_runs import CLASSES, Bench, final_state, outcome, records, summary
from edited_runs import tables
from safetensors.torch import load_file
from torch import Tensor

from feddtl.cli import main
from feddtl.errors import RunError
from feddtl.experiment import run_experiment
from feddtl.methods.catalog import METHODS
from feddtl.observers import RunObserver
from feddtl.runs import RunFolder

OldRun = Callable[[str], Path]


class Notes(RunObserver):
    """Keeps the notes of a run."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def old_run(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> OldRun:
    """The finished run of a method, two rounds; each method runs once."""
    root = tmp_path_factory.mktemp("old")

    def finished(method: str) -> Path:
        folder = root / method
        return folder if folder.exists() else bench.run(folder, "--rounds", 2, "--method", method)

    return finished


def model(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint's server state without the anchor."""
    return {name: value for name, value in state.items() if name.startswith("state/") and "/anchor/" not in name}


def first_state(run: Path) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / "round-0000" / "state.safetensors")


def digest(state: dict[str, Tensor]) -> str:
    """SHA-256 of the JSON of each tensor's SHA-256 by name, sorted."""
    hashes = {}
    for name, value in model(state).items():
        own = name.removeprefix("state/").removeprefix("shared/")
        kind = f"{value.dtype} {tuple(value.shape)}".encode()
        hashes[own] = hashlib.sha256(kind + value.numpy().tobytes()).hexdigest()
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize("method", ["feddtl", "fedsa-lora", "fedex-lora"])
def test_the_start_is_the_end_of_the_other_run(method: str, bench: Bench, old_run: OldRun, tmp_path: Path) -> None:
    old, notes = old_run(method), Notes()
    run_experiment(bench.experiment(method=method, rounds=1, init_from=str(old)), tmp_path / "new", observer=notes)
    start, end = model(first_state(tmp_path / "new")), model(final_state(old))
    assert start.keys() == end.keys()
    assert all(torch.equal(start[name], end[name]) for name in end)
    [taken] = [note for note in notes.said if note.startswith(f"Starting from {old} after round 2 of 2")]
    assert f"{len(end)} tensors, {sum(value.numel() for value in end.values()):,} numbers" in taken
    assert ("its clients keep are not taken" in taken) == (method == "fedsa-lora")
    final = summary(old)["final"]
    assert f"Before training, the model of {old} scores base {final['base']:.1f}, novel {final['novel']:.1f}." in (
        notes.said
    )
    assert tables(tmp_path / "new" / "origin.json")[0]["started_from"] == {
        "folder": str(old),
        "method": method,
        "title": METHODS[method].title,
        "rounds": 2,
        "dataset": "photos",
        "tensors": len(end),
        "sha256": digest(final_state(old)),
    }
    assert summary(tmp_path / "new")["zero_shot"] == summary(old)["zero_shot"]


def test_classes_and_clients_that_come_later_and_another_method(
    bench: Bench, old_run: OldRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three clients and three classes; then four clients and the other classes too; then more rounds of these."""
    old = old_run("feddtl")
    monkeypatch.chdir(old.parent)
    flags = ["--model", bench.clip, "--data.source", bench.photos, "--data.clients", 4, "--rounds", 1]
    flags += ["--data.classes", ",".join(CLASSES), "--method", "fedlora", "--output", tmp_path / "new"]
    assert main(["run", *map(str, flags), "--init-from", old.name, "--quiet"]) == 0
    folder = RunFolder.open(tmp_path / "new")
    assert (RunFolder.open(old).data["base_classes"], folder.data["base_classes"]) == (list(CLASSES[:3]), list(CLASSES))
    assert [record["clients"] for record in records(tmp_path / "new")] == [[0, 1, 2, 3]]
    assert folder.experiment.init_from == str(old)
    # FedDTL trains the text tower on the server, FedLoRA on the clients.
    end = {name.replace("state/text/", "state/shared/text/"): value for name, value in model(final_state(old)).items()}
    start = model(first_state(tmp_path / "new"))
    assert start.keys() == end.keys()
    assert all(torch.equal(start[name], end[name]) for name in end)


def test_a_killed_run_resumes_without_the_other_folder(
    bench: Bench, old_run: OldRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = shutil.copytree(old_run("feddtl"), tmp_path / "old")
    whole = bench.run(tmp_path / "whole", "--rounds", 2, "--init-from", old)
    flags = bench.flags("--rounds", 2, "--init-from", old, "--output", tmp_path / "killed", "--quiet")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "save_progress", killed)
        assert main(["run", *flags]) == 130
    start = first_state(tmp_path / "killed")
    anchor = {name: value for name, value in start.items() if "/anchor/" in name}
    assert anchor
    assert all(torch.equal(value, start[name.replace("/anchor/", "/shared/")]) for name, value in anchor.items())
    shutil.rmtree(old)
    assert main(["run", "--resume", str(tmp_path / "killed"), "--quiet"]) == 0
    assert outcome(tmp_path / "killed") == outcome(whole)


@pytest.mark.parametrize(
    ("method", "flags", "said"),
    [
        ("feddtl", ("--lora.rank", "2"), ("lora_A.weight is (4, 16) there, (2, 16) here", "Set lora.rank = 4")),
        ("feddtl", ("--lora.alpha", "8"), ("lora.alpha / lora.rank is 1.0 there, 2.0 here", "Set lora.alpha = 0.0")),
        (
            "feddtl",
            ("--lora.first-image-block", "-1"),
            ("FedDTL has no place for 6 tensors", "Set lora.first_image_block = -2"),
        ),
        ("feddtl", ("--method", "promptfl"), ("it lacks 1 tensor of PromptFL (context)", "Set method = 'feddtl'")),
        ("feddtl", ("--method", "zero-shot"), ("which trains nothing", "Omit init_from")),
        ("feddtl", ("--model", "tiny-clip"), ("belong to another model than tiny-clip. Other weights", "Set model =")),
        ("fedex-lora", ("--method", "fedlora"), ("has no place for", "(residual/", "Set method = 'fedex-lora'")),
        ("ffa-lora", ("--method", "ffa-lora", "--seed", "1"), ("is 0 there, 1 here", "Set seed = 0")),
        ("pfedmma", ("--method", "pfedmma", "--pfedmma.scale", "1"), ("pfedmma.scale is 0.001 there, 1.0 here",)),
        ("zero-shot", (), ("is a run of Zero-shot, which has no adapters",)),
        ("no-run", (), ("There is no run in",)),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    method: str,
    flags: tuple[str, ...],
    said: tuple[str, ...],
    bench: Bench,
    old_run: OldRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = tmp_path / "none" if method == "no-run" else old_run(method)
    monkeypatch.setattr("feddtl.preparation.ImageEncoder.encode", lambda *_, **__: pytest.fail("images were encoded"))
    capsys.readouterr()
    assert main(["run", *bench.flags("--init-from", old, "--output", tmp_path / "new", *flags)]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert all(text in error for text in said), error
    assert not (tmp_path / "new").exists()


def test_a_run_without_a_finished_round_is_no_start(bench: Bench, old_run: OldRun, tmp_path: Path) -> None:
    old = shutil.copytree(old_run("feddtl"), tmp_path / "old")
    shutil.rmtree(old / "checkpoints")
    with pytest.raises(RunError, match="has no finished round to start from"):
        run_experiment(bench.experiment(init_from=str(old)), tmp_path / "new")


def test_a_run_that_lost_its_start_does_not_take_another(bench: Bench, old_run: OldRun, tmp_path: Path) -> None:
    old = shutil.copytree(old_run("fedex-lora"), tmp_path / "old")
    flags = ("--method", "fedex-lora", "--init-from", old, "--rounds", 1)
    new = bench.run(tmp_path / "new", *flags)
    (new / "summary.json").unlink()
    shutil.rmtree(new / "checkpoints")
    assert main(["run", "--resume", str(new), "--quiet"]) == 0
    (new / "summary.json").unlink()
    shutil.rmtree(new / "checkpoints")
    shutil.rmtree(max((old / "checkpoints").iterdir()))
    with pytest.raises(RunError, match="has changed since"):
        run_experiment(RunFolder.open(new).experiment, new, resume=True)


def test_a_grid_compares_both_starts(bench: Bench, old_run: OldRun, tmp_path: Path) -> None:
    grid = ("--grid", f"init_from=,{old_run('feddtl')}", "--output", tmp_path / "both", "--quiet")
    (tmp_path / "one.toml").write_text("rounds = 1\n")
    words = bench.flags(*grid)
    del words[words.index("--rounds") : words.index("--rounds") + 2]
    assert main(["compare", str(tmp_path / "one.toml"), *words]) == 0
    compared = (tmp_path / "both" / "comparison.json").read_text()
    assert '"label": "FedDTL, no init_from"' in compared
    assert '"label": "FedDTL, init_from feddtl"' in compared
