"""A run's model in Python: probabilities, predictions, scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli.small_runs import CLASSES, Bench, summary
from PIL import Image
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from feddtl.config import DataConfig
from feddtl.errors import ConfigError, DataError, RunError
from feddtl.export import export_merged
from feddtl.scoring import _to_score, score_run
from feddtl.trained_model import Prediction, TrainedModel, load_trained_model


@pytest.fixture(scope="module")
def run(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bench.run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def model(run: Path) -> TrainedModel:
    return load_trained_model(run)


@pytest.fixture(scope="module")
def pictures(bench: Bench) -> list[Image.Image]:
    """The 18 test images, class by class."""
    return [Image.open(file) for file in sorted((bench.photos / "test").glob("*/*.png"))]


def test_probabilities(model: TrainedModel, pictures: list[Image.Image]) -> None:
    found = model.probabilities(pictures)
    assert found.shape == (18, 6)
    assert model.class_names == CLASSES
    torch.testing.assert_close(found.sum(dim=1), torch.ones(18))
    assert not found.requires_grad


def test_names_that_are_one_text_are_refused(model: TrainedModel, pictures: list[Image.Image]) -> None:
    with pytest.raises(DataError, match="'Ant' and 'ant'"):
        model.predict(pictures[:1], ["bee", "Ant", "ant"])


@torch.no_grad()
def test_probabilities_equal_those_of_the_merged_model(
    run: Path, model: TrainedModel, pictures: list[Image.Image], tmp_path: Path
) -> None:
    """An independent way: merged weights, run by transformers alone."""
    export_merged(run, tmp_path / "model")
    pixels = CLIPImageProcessorPil.from_pretrained(tmp_path / "model")(images=pictures, return_tensors="pt")
    names = ("ant", "red star")
    texts = [f"a photo of a {name}." for name in names]
    tokens = AutoTokenizer.from_pretrained(tmp_path / "model")(texts, padding=True, return_tensors="pt")
    clip = CLIPModel.from_pretrained(tmp_path / "model")
    expected = clip(**pixels, **tokens).logits_per_image.softmax(dim=1)
    torch.testing.assert_close(model.probabilities(pictures, names), expected, atol=1e-5, rtol=1e-4)


def test_predictions_are_the_likeliest_names(model: TrainedModel, pictures: list[Image.Image]) -> None:
    names = ["cat", "dog"]
    found = model.predict(pictures, names)
    rows = model.probabilities(pictures, names)
    assert found == [
        Prediction(names[at], pytest.approx(row[at]))
        for at, row in zip(rows.argmax(dim=1).tolist(), rows.tolist(), strict=True)
    ]
    name, probability = found[0]
    assert name in names
    assert 0.5 <= probability <= 1


def test_predictions_score_as_the_run_did(run: Path, model: TrainedModel, pictures: list[Image.Image]) -> None:
    right = [
        found.class_name == name
        for found, name in zip(model.predict(pictures[:9], CLASSES[:3]), np.repeat(CLASSES[:3], 3), strict=True)
    ]
    assert 100 * np.mean(right) == pytest.approx(summary(run)["final"]["base"], abs=1e-3)


def test_any_picture_and_any_number_of_them(model: TrainedModel) -> None:
    grey = Image.new("L", (40, 9), 90)
    palette = Image.new("RGB", (7, 300), (200, 0, 0)).convert("P")
    see_through = Image.new("RGBA", (16, 16), (10, 200, 10, 128))
    assert len(model.predict([grey, palette, see_through])) == 3
    assert model.predict([]) == []
    assert model.probabilities([]).shape == (0, 6)
    many = model.probabilities([grey] * 130)
    torch.testing.assert_close(many, many[:1].expand(130, -1))


def test_the_order_of_names_and_pictures_does_not_matter(model: TrainedModel, pictures: list[Image.Image]) -> None:
    found = model.probabilities(pictures)
    turned = model.probabilities(pictures[::-1], CLASSES[::-1])
    torch.testing.assert_close(turned, found.flip(0, 1), atol=1e-6, rtol=1e-5)


def test_an_upright_picture_is_what_its_camera_meant(model: TrainedModel, tmp_path: Path) -> None:
    """A turned picture with the EXIF note that says so is the same picture."""
    rng = np.random.default_rng(0)
    upright = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    upright.rotate(90).save(tmp_path / "turned.png", exif=exif)
    both = model.probabilities([upright, Image.open(tmp_path / "turned.png")])
    torch.testing.assert_close(both[0], both[1])


def test_another_prompt(run: Path, pictures: list[Image.Image], model: TrainedModel) -> None:
    other = load_trained_model(run, prompt="{class}")
    assert not torch.allclose(other.probabilities(pictures), model.probabilities(pictures))


def test_scores_of_the_run_s_own_data(run: Path) -> None:
    base, novel = score_run(run, class_lists=("base", "novel"))
    final = summary(run)["final"]
    assert (base.dataset, base.classes, base.choices, base.images, base.domains) == ("photos", "base", 3, 9, {})
    assert round(base.accuracy, 4) == final["base"]
    assert round(novel.accuracy, 4) == final["novel"]


def test_classes_that_took_no_part_are_not_novel(bench: Bench) -> None:
    """Of the run's own data; in other data, every class that was not trained is novel."""
    own = DataConfig(source=str(bench.photos), classes="bee, ant", novel_classes="cat")
    described = {"base_classes": ["bee", "ant"], "novel_classes": ["cat"]}
    assert _to_score(own, described, None, ())[1].names == ("bee", "ant", "cat")
    assert _to_score(replace(own, source="elsewhere"), described, own, ())[1].base == ("bee", "ant")
    assert len(_to_score(replace(own, source="elsewhere"), described, own, ())[1].novel) == 4


def test_the_same_data_named_anew(bench: Bench, run: Path) -> None:
    assert score_run(run, DataConfig(source=str(bench.photos))) == score_run(run)


def test_refusals(bench: Bench, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no class list"):
        score_run(run, class_lists=())
    with pytest.raises(RunError, match="There is no run"):
        load_trained_model(tmp_path)
    with pytest.raises(ConfigError, match="is not a device"):
        load_trained_model(run, device="gpu")


def test_a_model_can_be_looked_at_and_changed_in_a_copy(model: TrainedModel) -> None:
    assert model.experiment.method == "feddtl"
    assert replace(model, class_names=("a", "b")).class_names == ("a", "b")


def test_a_picture_of_16_bits_is_the_picture_of_its_upper_8(model: TrainedModel, tmp_path: Path) -> None:
    """Pillow's own conversion makes everything over 255 white."""
    grey = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    deep = Image.fromarray(grey.astype(np.uint16) * 256 + 77)
    both = model.probabilities([Image.fromarray(grey), deep])
    torch.testing.assert_close(both[0], both[1])
    with pytest.raises(DataError, match="image at position 1 has 32-bit pixels"):
        model.predict([deep, Image.fromarray(np.float32([[0.5]]))])
