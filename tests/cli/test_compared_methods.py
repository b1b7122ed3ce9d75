"""Every method from the command line to a prediction: what its run folder holds, and what can be done with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli.small_runs import CLIENTS, Bench, Command, outcome, records, refused, summary
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from feddtl.errors import ClientError
from feddtl.methods.catalog import METHODS
from feddtl.runs import RunFolder
from feddtl.runtimes import context
from feddtl.scoring import score_run
from feddtl.tensor_groups import select_prefix
from feddtl.trained_model import load_trained_model

# Without an adapter of both towers that all clients share.
WITHOUT_LORA = ("fedsa-lora", "promptfl", "fedmaple", "fedpgp", "fedmgp", "pfedmma", "fedclip")
PERSONAL = ("fedsa-lora", "fedpgp", "fedmgp", "pfedmma")
each_without_lora = pytest.mark.parametrize("method", WITHOUT_LORA)


@pytest.fixture(scope="module")
def runs(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of every method; shared by all tests, so none may change it."""
    root = tmp_path_factory.mktemp("methods")
    return {method: bench.run(root / method, "--method", method, "--rounds", 2) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_says_what_it_trains_and_evaluates_to_what_it_reported(runs: dict[str, Path], method: str) -> None:
    """`evaluate` scores the global model, so base and novel are those of the summary's last round."""
    found = summary(runs[method])
    trained = found["trainable_parameters"]
    assert set(trained) == {"shared", "personal", "server"}
    assert (trained["shared"] > 0) == (method != "zero-shot")
    assert (trained["personal"] > 0) == (method in PERSONAL)
    assert (trained["server"] > 0) == (method == "feddtl")
    scores = {score.classes: score.accuracy for score in score_run(runs[method], class_lists=("base", "novel"))}
    assert scores == pytest.approx({name: found["final"][name] for name in scores}, abs=1e-3)
    if method != "zero-shot":
        assert found["final"]["base"] == pytest.approx(records(runs[method])[-1]["base"], abs=1e-3)
        assert set(found["final_client_models"]) == {"base", "novel", "harmonic_mean"}
        # RoLoRA sends one of the two factors in each round.
        sent = trained["shared"] // (2 if method == "rolora" else 1)
        assert found["bytes_up"] >= 4 * sent * CLIENTS * found["rounds"]


def test_every_field_of_every_method_is_documented(runs: dict[str, Path]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/reference/run-folder.md").read_text(encoding="utf-8")
    for run in runs.values():
        fields = set(summary(run)).union(*records(run), *(record["train"] for record in records(run)))
        assert {field for field in fields if f"`{field}`" not in page} == set()
        assert all(path.name in page for path in run.iterdir())


@pytest.mark.parametrize("method", METHODS)
def test_a_run_predicts_single_pictures_of_any_size(runs: dict[str, Path], method: str) -> None:
    model = load_trained_model(runs[method])
    images = [Image.new("RGB", (40, 20), (200, 30, 30)), Image.new("L", (9, 33), 80)]
    assert {found.class_name for found in model.predict(images, ["a b", "c"])} <= {"a b", "c"}
    probabilities = model.probabilities(images)
    assert probabilities.shape == (2, 6)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))
    alone = torch.cat([model.probabilities([image]) for image in images])
    torch.testing.assert_close(alone, probabilities, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_all_embeddings_of_a_model_are_of_one_width(
    runs: dict[str, Path], feddtl: Command, tmp_path: Path, method: str
) -> None:
    """Wider than the towers' where a method compares several, and also where there is no image."""
    model = load_trained_model(runs[method])
    width = model.embedding_width
    image = Image.new("RGB", (8, 8))
    for found in (model.encode_texts(["a", "b"]), model.encode_images([image, image]), model.encode_images([])):
        assert found.shape[1] == width
    file = tmp_path / ("texts.npz" if sorted(METHODS).index(method) % 2 else "texts.parquet")
    answer = feddtl("embed", runs[method], "--texts", "a", "b", "--output", file)
    assert f"2 texts, {width} numbers each" in answer.out
    assert file.is_file()


@each_without_lora
def test_what_was_trained_lies_in_the_folder_as_plain_tensors(runs: dict[str, Path], method: str) -> None:
    folder, progress = runs[method] / "tensors", RunFolder.open(runs[method]).latest_progress()
    assert progress is not None
    kept = [f"client-{client}.safetensors" for client in range(CLIENTS)] if method in PERSONAL else []
    assert sorted(path.name for path in folder.iterdir()) == [*kept, "shared.safetensors"]
    expected = {"shared": select_prefix(progress.state.tensors, "shared")}
    expected |= {f"client-{client}": tensors for client, tensors in progress.personal.items()}
    for name, tensors in expected.items():
        found = load_file(folder / f"{name}.safetensors")
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[key], tensors[key]) for key in found)
    trained = summary(runs[method])["trainable_parameters"]
    assert sum(tensor.numel() for tensor in load_file(folder / "shared.safetensors").values()) == trained["shared"]
    with safe_open(folder / "shared.safetensors", "pt") as file:
        assert file.metadata() == {"method": method, "model": summary(runs[method])["model"], "rounds": "2"}
    assert not (runs[method] / "adapter").exists()


@pytest.mark.parametrize("method", ["feddtl", "fedlora", "zero-shot"])
def test_methods_of_lora_and_zero_shot_leave_no_such_tensors(runs: dict[str, Path], method: str) -> None:
    assert not (runs[method] / "tensors").exists()
    assert (runs[method] / "adapter").exists() == (method != "zero-shot")


@each_without_lora
def test_export_says_why_it_cannot_and_what_can(runs: dict[str, Path], method: str, feddtl: Command) -> None:
    folder = runs[method]
    answer = feddtl("export", folder, "merged")
    instead = "without the clients' parts" if method in PERSONAL else f"feddtl evaluate {folder}"
    refused(answer, f"is a run of '{method}'", "cannot be merged", instead, str(folder / "tensors"))
    assert not Path("merged").exists()


def test_evaluate_works_from_the_command_line(runs: dict[str, Path], feddtl: Command) -> None:
    for method in WITHOUT_LORA:
        answer = feddtl("evaluate", runs[method], "--json")
        assert answer.code == 0, answer.err
        assert ("without the parts that the clients keep" in answer.err) == (method in PERSONAL)
        assert [score["classes"] for score in json.loads(answer.out)] == ["base", "novel", "all"]


def test_the_last_lines_say_what_was_trained(bench: Bench, feddtl: Command) -> None:
    """FedPGP at width 16: 16 · 16 shared, 16 · 8 + 8 · 16 kept; FedDTL: rank 4, 6 layers of (16 + 16) in each tower."""
    answer = feddtl("run", *bench.flags("--output", "pgp", "--rounds", 1, "--method", "fedpgp"))
    assert "trained parameters: 256 shared by the clients, 256 kept by each client\n" in answer.out
    assert "clients' own models" in answer.out
    answer = feddtl("run", *bench.flags("--output", "dtl", "--rounds", 1))
    assert "trained parameters: 768 shared by the clients, 768 on the server\n" in answer.out
    assert "clients' own models" not in answer.out
    answer = feddtl("run", *bench.flags("--output", "zero", "--rounds", 1, "--method", "zero-shot"))
    assert "trained parameters" not in answer.out


@pytest.mark.parametrize("method", PERSONAL)
def test_stopped_in_round_three_and_resumed(
    bench: Bench, method: str, tmp_path: Path, feddtl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three clients a round, so that some personal tensors wait in the checkpoint: the end is the same."""
    flags = ("--method", method, "--participation", "0.5", "--rounds", 3)
    whole = bench.run(tmp_path / "whole", *flags)
    plain = context.require_finite_tensors

    def fail(tensors: object, owner: str, remedy: str) -> None:
        if "round 3" in owner:
            raise ClientError(f"{owner} is bad.")
        plain(tensors, owner, remedy)

    with monkeypatch.context() as patch:
        patch.setattr(context, "require_finite_tensors", fail)
        assert feddtl("run", *bench.flags("--output", tmp_path / "stopped", *flags)).code == 1
    assert feddtl("run", "--resume", tmp_path / "stopped").code == 0
    assert outcome(tmp_path / "stopped") == outcome(whole)
    tensors = [load_file(tmp_path / run / "tensors" / "client-0.safetensors") for run in ("whole", "stopped")]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
