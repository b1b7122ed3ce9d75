"""`feddtl export` for other programs: ONNX against the run's own towers, class embeddings, and the model card."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from cli.small_runs import CLASSES, Bench, Command, refused, summary
from huggingface_hub import metadata_load
from PIL import Image
from safetensors import safe_open
from transformers import pipeline

from feddtl.cli import main
from feddtl.export.run_model import as_format
from feddtl.trained_model import TrainedModel, load_trained_model

SIZES = ((16, 16), (40, 23), (17, 90))
TEXTS = ["a cat", "a photo of a very large dog and a bee.", "an elk!"]
WITHOUT_TORCH = """
import json, runpy, sys
sys.modules["torch"] = sys.modules["transformers"] = None
script, *pictures = sys.argv[1:]
print(json.dumps(runpy.run_path(script)["classify"](pictures).tolist()))
"""


@pytest.fixture(scope="module")
def model(finished: Path) -> TrainedModel:
    return load_trained_model(finished, device="cpu")


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "model"
    assert main(["export", str(finished), str(folder), "--format", "onnx"]) == 0
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for number, (width, height) in enumerate(SIZES):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def computed(folder: Path, name: str, **inputs: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {key: value.numpy() for key, value in inputs.items()})[0])


def equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_onnx_towers_equal_those_of_the_run_for_any_number(model: TrainedModel, exported: Path, count: int) -> None:
    pixels = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))
    activations = model.clip.image.prefix(pixels, model.method.first_image_block)
    equal(computed(exported, "image_tower", pixel_values=pixels), model.classifier.image_features(activations))
    texts = [f"{text} {'and a fox ' * count}" for text in TEXTS[:count]]
    ids, _ = model.clip.text.tokenize([f"a photo of a {text}." for text in texts])
    equal(computed(exported, "text_tower", input_ids=ids), model.classifier.text_embeddings(texts))


def test_classify_without_torch_as_the_run_does(model: TrainedModel, exported: Path, pictures: list[Path]) -> None:
    """The script beside the models in a process in which torch and transformers cannot be imported."""
    images = [Image.open(path) for path in pictures]
    pixels = runpy.run_path(str(exported / "classify.py"))["pixel_values"]
    np.testing.assert_array_equal(np.stack([pixels(image) for image in images]), model.clip.image.preprocess(images))
    words = [sys.executable, "-c", WITHOUT_TORCH, exported / "classify.py", *pictures]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ""})
    equal(torch.tensor(json.loads(done.stdout)), model.probabilities(images))
    assert json.loads((exported / "classes.json").read_text())["class_names"] == list(CLASSES)


def test_class_embeddings_are_those_of_the_run(model: TrainedModel, exported: Path) -> None:
    with safe_open(exported / "class_embeddings.safetensors", "pt") as file:
        equal(file.get_tensor("class_embeddings"), model.classifier.text_embeddings(CLASSES))
        about = file.metadata()
    assert json.loads(about["class_names"]) == list(CLASSES)
    assert about["prompt_template"] == "a photo of a {class}."
    assert float(about["logit_scale"]) == model.clip.logit_scale


PROMPT_ON_CARD = {"promptfl": "The prompts were learned.", "fedclip": "Prompt: `a sketch of a {class}`"}


@pytest.mark.parametrize("method", ["zero-shot", "promptfl", "fedclip", "fedmaple"])
def test_methods_whose_image_blocks_are_frozen_have_a_classifier(
    bench: Bench, feddtl: Command, pictures: list[Path], method: str
) -> None:
    own = ["--fedclip.prompt", "a sketch of a {class}"] if method == "fedclip" else []
    run = bench.run(Path("run").absolute(), "--method", method, "--rounds", 1, *own)
    answer = feddtl("export", run, "out", "--format", "onnx")
    if method == "fedmaple":
        refused(answer, "changes blocks of the image tower", "--format embeddings")
        assert not Path("out").exists()
        assert feddtl("export", run, "out", "--format", "embeddings").code == 0
        return
    assert answer.code == 0, answer.err
    trained = load_trained_model(run, device="cpu")
    images = [Image.open(path) for path in pictures]
    found = computed(Path("out"), "classifier", pixel_values=trained.clip.image.preprocess(images))
    equal(found, trained.probabilities(images))
    assert Path("out/text_tower.onnx").exists() == (method == "zero-shot")
    assert PROMPT_ON_CARD.get(method, "Prompt: `a photo of a {class}.`") in Path("out/README.md").read_text()


def test_a_prompt_that_is_asked_for_replaces_a_methods_own(bench: Bench, tmp_path: Path) -> None:
    run = bench.run(tmp_path / "run", "--method", "fedclip", "--rounds", 1, "--fedclip.prompt", "a {class}, seen")
    own, asked = load_trained_model(run, "cpu"), load_trained_model(run, "cpu", "a photo of a {class}.")
    for model, texts in ((own, ["a ant, seen"]), (asked, ["a photo of a ant."])):
        equal(model.encode_classes(["ant"]), model.encode_texts(texts))
    assert (own.encode_classes(["ant"]) - asked.encode_classes(["ant"])).abs().max() > 1e-3


def test_the_card_says_what_the_run_was(exported: Path, bench: Bench, finished: Path) -> None:
    head, text = metadata_load(exported / "README.md"), (exported / "README.md").read_text()
    assert head == {
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["clip", "federated-learning", "feddtl"],
    }
    before, after = summary(finished)["zero_shot"], summary(finished)["final"]
    for line in (
        f"| Base | {before['base']:.1f} | {after['base']:.1f} |",
        "| rounds | 4 of 4 |",
        "| licence of the base model | not stated in the files of the base model;",
        "- Trained (base) classes: ant, bee, cat",
        "an embedding and a label of every training image",
        "no differential privacy and no secure aggregation",
    ):
        assert line in text
    for path in exported.iterdir():
        assert str(bench.clip.parent).encode() not in path.read_bytes(), "a path of this machine"


def test_a_pipeline_finds_prompt_and_classes(
    model: TrainedModel, feddtl: Command, finished: Path, pictures: list[Path]
) -> None:
    assert feddtl("export", finished, "out").code == 0
    classify = pipeline("zero-shot-image-classification", model="out")
    trained: Any = classify.model.config
    images = [Image.open(path) for path in pictures]
    found = classify(images, candidate_labels=trained.candidate_labels, hypothesis_template=trained.hypothesis_template)
    scores = [{one["label"]: one["score"] for one in row} for row in found]
    expected = model.probabilities(images).tolist()
    assert scores == [pytest.approx(dict(zip(CLASSES, row, strict=True)), abs=1e-4) for row in expected]


def test_the_licence_of_a_base_model_and_templates_with_braces(tmp_path: Path) -> None:
    from feddtl.export.card import base_licence

    assert base_licence("tiny-clip") == "apache-2.0"
    for head, licence in (("license: mit", "mit"), ("license: [", None), ("tags: [a]", None)):
        (tmp_path / "README.md").write_text(f"---\n{head}\n---\n")
        assert base_licence(str(tmp_path)) == licence
    assert as_format("{x} a {class} of 1}").format("cat") == "{x} a cat of 1}"


def test_without_onnxruntime(feddtl: Command, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(feddtl("export", finished, "out", "--format", "onnx"), "needs onnx and onnxruntime", "feddtl[onnx]")
