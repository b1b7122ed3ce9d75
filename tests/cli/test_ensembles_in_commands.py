"""A run whose prompt is several templates, from its training to what is made of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli.small_runs import CLASSES, Bench, Command, refused, summary
from PIL import Image
from safetensors import safe_open

from feddtl.data.templates import GENERAL
from feddtl.export import export_onnx
from feddtl.trained_model import TrainedModel, load_trained_model

TEMPLATES = ("a photo of a {class}.", "one {class}", "art of the {class}!")


@pytest.fixture(scope="module")
def run(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ensemble")
    (folder / "prompts.txt").write_text("\n".join(TEMPLATES))
    flags = ("--rounds", 1, "--schedule.stages", "sft", "--data.prompt", f"@{folder}/prompts.txt")
    return bench.run(folder / "run", *flags)


@pytest.fixture(scope="module")
def model(run: Path) -> TrainedModel:
    return load_trained_model(run, device="cpu")


def mean_of_single_prompts(run: Path) -> torch.Tensor:
    every = [load_trained_model(run, "cpu", template).encode_classes() for template in TEMPLATES]
    return torch.nn.functional.normalize(sum(every), dim=-1)


def test_the_run_stores_and_uses_its_templates(run: Path, model: TrainedModel, feddtl: Command) -> None:
    described = json.loads((run / "data.json").read_text())
    assert described["prompt_template"].split("\n") == list(TEMPLATES)
    assert "the mean of 3 prompts: 'a photo of a {class}.', 'one {class}', 'art of the {class}!'." in str(described)
    torch.testing.assert_close(model.encode_classes(), mean_of_single_prompts(run), atol=1e-6, rtol=0)
    scores = {row["classes"]: row["accuracy"] for row in json.loads(feddtl("evaluate", run, "--json").out)}
    assert scores["base"] == pytest.approx(summary(run)["final"]["base"], abs=1e-3)


def test_an_export_has_the_means_and_its_card_shows_how_to_use_them(
    run: Path, model: TrainedModel, feddtl: Command, bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    answer = feddtl("export", run, "out")
    assert (answer.code, "averages 3 prompts, and a pipeline takes one" in answer.err) == (0, True)
    picture = next(bench.photos.rglob("*.png"))
    expected = model.probabilities(picture)
    Image.open(picture).save("picture.jpg", quality=100)
    card = Path("out/README.md").read_text()
    assert all(f"`{template}`" in card for template in TEMPLATES)
    [example] = re.findall("```python\n(.*?)```", card, re.DOTALL)
    example = example.replace("PATH_OF_THIS_MODEL", "out").replace("picture.jpg", str(picture))
    capsys.readouterr()
    exec(compile(example, "card", "exec"), {})
    shown = eval(capsys.readouterr().out)
    assert list(shown) == list(CLASSES)
    torch.testing.assert_close(torch.tensor(list(shown.values())), expected[0], atol=1e-4, rtol=0)
    # An exported folder is used like the run.
    torch.testing.assert_close(load_trained_model("out", "cpu").probabilities(picture), expected, atol=1e-4, rtol=0)
    assert json.loads(Path("out/classes.json").read_text())["hypothesis_template"] == "a photo of a {}."


def test_onnx_has_the_means(run: Path, model: TrainedModel, bench: Bench, tmp_path: Path) -> None:
    import onnxruntime

    export_onnx(run, tmp_path / "onnx")
    image = Image.open(next(bench.photos.rglob("*.png")))
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "classifier.onnx", providers=["CPUExecutionProvider"])
    [found] = session.run(None, {"pixel_values": model.clip.image.preprocess([image]).numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model.probabilities(image), atol=1e-5, rtol=0)
    with safe_open(tmp_path / "onnx" / "class_embeddings.safetensors", "pt") as file:
        torch.testing.assert_close(file.get_tensor("class_embeddings"), model.encode_classes())


def test_other_prompts_for_a_run(finished: Path, run: Path, feddtl: Command, bench: Bench) -> None:
    """For a run with one template, for zero-shot as in docs/how-to/own-images.md, and for texts."""
    Path("prompts.txt").write_text("\n".join(TEMPLATES))
    picture = next(bench.photos.rglob("*.png"))
    flags = ("--method", "zero-shot", "--evaluation.images", "held-back", "--data.prompt", "ensemble")
    asked = bench.run(Path("ensemble"), *flags)
    assert json.loads((asked / "data.json").read_text())["prompt_template"].split("\n") == list(GENERAL)
    by_file = feddtl("evaluate", finished, "--data.prompt", "@prompts.txt", "--json").out
    assert by_file == feddtl("evaluate", finished, "--data.prompt", "\n".join(TEMPLATES), "--json").out
    assert "mean of 3 prompts" in feddtl("evaluate", finished, "--data.prompt", "@prompts.txt").err
    found = json.loads(feddtl("predict", finished, picture, "--prompt", "@prompts.txt", "--json").out)
    [expected] = load_trained_model(finished, "cpu", list(TEMPLATES)).predict(picture)
    assert found[0]["predictions"][0]["probability"] == pytest.approx(expected.probability, abs=1e-5)
    assert feddtl("embed", run, "--texts", *CLASSES, "ant", "--prompt", "@prompts.txt", "--output", "t.npz").code == 0
    embeddings = torch.from_numpy(np.load("t.npz")["embeddings"])
    torch.testing.assert_close(embeddings[:-1], mean_of_single_prompts(run), atol=1e-6, rtol=0)
    torch.testing.assert_close(embeddings[-1], embeddings[0])
    refused(feddtl("predict", finished, picture, "--prompt", "a\nb {class}"), "prompt = 'a'", "{class}")
    refused(feddtl("embed", run, picture, "--prompt", "{class}", "--output", "t.npz"), "--prompt", "for texts")
