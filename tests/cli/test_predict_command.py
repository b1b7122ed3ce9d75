"""`feddtl predict` and `feddtl embed`: many files in, predictions and embeddings out."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from cli.small_runs import CLASSES, Bench, Command, refused
from peft import AutoPeftModel
from PIL import Image
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from feddtl.export import export_merged
from feddtl.trained_model import TrainedModel, load_trained_model


@pytest.fixture(scope="module")
def model(finished: Path) -> TrainedModel:
    return load_trained_model(finished)


@pytest.fixture(scope="module")
def plain(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model without feddtl."""
    export_merged(finished, folder := tmp_path_factory.mktemp("plain") / "clip")
    return folder


@pytest.fixture
def photos(bench: Bench, tmp_path: Path) -> Path:
    """Two pictures in two folders."""
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.open(bench.photos / "test" / name / "0.png").save(tmp_path / "photos" / name / "0.png")
    return tmp_path / "photos"


def read_json(text: str) -> list[dict[str, Any]]:
    return list(json.loads(text))


def test_every_form_says_the_same(feddtl: Command, finished: Path, model: TrainedModel, photos: Path) -> None:
    """The most likely of the run's six classes, as the rows of `probabilities` have them."""
    files = [str(photos / name / "0.png") for name in ("ant", "bee")]
    expected = [
        {
            "image": file,
            "predictions": [
                {"class": CLASSES[at], "probability": float(row[at])} for at in row.argsort(descending=True)[:2]
            ],
        }
        for file, row in zip(files, model.probabilities(files), strict=True)
    ]
    answer = feddtl("predict", finished, "photos", "--top-k", 2, "--json", "--csv", "found.csv")
    assert answer.code == 0
    shown = read_json(answer.out)
    assert [entry["image"] for entry in shown] == ["photos/ant/0.png", "photos/bee/0.png"]
    assert [[one["class"] for one in entry["predictions"]] for entry in shown] == [
        [one["class"] for one in entry["predictions"]] for entry in expected
    ]
    for entry, own in zip(shown, expected, strict=True):
        for one, other in zip(entry["predictions"], own["predictions"], strict=True):
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-6)
    with Path("found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["rank"], row["class"], float(row["probability"])) for row in rows] == [
        (entry["image"], str(rank), one["class"], one["probability"])
        for entry in shown
        for rank, one in enumerate(entry["predictions"], start=1)
    ]
    lines = feddtl("predict", finished, "photos", "--top-k", 2).out.splitlines()
    assert [line.split() for line in lines] == [
        ["Image", "Class", "%"],
        *(
            [*([entry["image"]] if rank == 0 else []), one["class"], f"{100 * one['probability']:.1f}"]
            for entry in shown
            for rank, one in enumerate(entry["predictions"])
        ),
    ]


def test_a_notebook_prints_a_model_in_one_line(model: TrainedModel) -> None:
    """Not its weights; and two models can be compared, which tensors cannot."""
    assert str(model).startswith("TrainedModel(method='feddtl', model='")
    assert "\n" not in repr(model)
    assert len({model, model}) == 1


def test_any_names_from_a_file_are_harmless_in_a_spreadsheet(feddtl: Command, finished: Path, photos: Path) -> None:
    Path("names.txt").write_text("=cmd()\n")
    assert feddtl("predict", finished, photos / "ant", "--classes", "@names.txt", "--csv", "a.csv").code == 0
    assert Path("a.csv").read_text().splitlines()[1] == f"{photos}/ant/0.png,1,'=cmd(),1.0"


def test_damaged_files_are_all_named_and_skipped_only_if_asked(feddtl: Command, finished: Path, photos: Path) -> None:
    for name in ("ant/1.png", "bee/1.png"):
        (photos / name).write_bytes(b"no picture")
    for words in (
        ("predict", finished, "photos", "--csv", "a.csv"),
        ("embed", finished, "photos", "--output", "a.npz"),
    ):
        answer = feddtl(*words)
        assert (answer.code, answer.out) == (1, "")
        for needle in ("error: 2 images", "photos/ant/1.png", "photos/bee/1.png", "--skip-damaged"):
            assert needle in answer.err
    assert not list(Path().glob("*a.csv*")) + list(Path().glob("*a.npz*"))
    answer = feddtl("predict", finished, "photos", "--skip-damaged", "--json")
    assert [entry["image"] for entry in read_json(answer.out)] == ["photos/ant/0.png", "photos/bee/0.png"]
    assert answer.err.count("note: Skipped: Cannot read the image photos/") == 2
    only = feddtl("predict", finished, photos / "ant" / "1.png", "--skip-damaged", "--json")
    assert (only.code, read_json(only.out)) == (0, [])


@pytest.mark.parametrize(
    ("words", "needles"),
    [
        (("predict", "RUN"), ("No image was named", "Name image files")),
        (("predict", "RUN", "missing.png"), ("missing.png", "No such file")),
        (("predict", "RUN", "photos", "--top-k", "7"), ("top_k = 7", "1 to 6")),
        (("predict", "RUN", "photos", "--classes", "@none.txt"), ("none.txt",)),
        (("predict", "RUN", "photos", "--classes", "ant, Ant"), ("twice",)),
        (("predict", "photos", "photos"), ("no run",)),
        (("embed", "RUN", "--output", "a.npz"), ("either images or texts",)),
        (("embed", "RUN", "photos", "--texts", "a", "--output", "a.npz"), ("either images or texts",)),
        (("embed", "RUN", "photos", "--output", "a.csv"), ("a.csv", ".npz or .parquet")),
        (("embed", "RUN", "--texts", "@none.txt", "--output", "a.npz"), ("none.txt", "one text a line")),
    ],
)
def test_refusals(
    feddtl: Command, finished: Path, photos: Path, words: tuple[str, ...], needles: tuple[str, ...]
) -> None:
    refused(feddtl(*(str(finished) if word == "RUN" else word for word in words)), *needles)


def test_embeddings_are_those_of_the_merged_model(
    feddtl: Command, finished: Path, plain: Path, photos: Path, bench: Bench
) -> None:
    """transformers alone, on the exported model."""
    clip = CLIPModel.from_pretrained(plain)
    texts = ["a photo of an ant.", "bees"]
    Path("texts.txt").write_text("\n".join(texts))
    assert feddtl("embed", finished, "photos", "--output", "images.npz").code == 0
    assert feddtl("embed", finished, "--texts", "@texts.txt", "--output", "texts.parquet").code == 0
    found = np.load("images.npz")  # without unpickling
    table = pyarrow.parquet.read_table("texts.parquet")
    assert found["image"].tolist() == ["photos/ant/0.png", "photos/bee/0.png"]
    assert table["text"].to_pylist() == texts
    images = [Image.open(file) for file in found["image"]]
    pixels = CLIPImageProcessorPil.from_pretrained(plain)(images, return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(plain)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = normalize(clip.get_image_features(**pixels).pooler_output, dim=-1)
        words = normalize(clip.get_text_features(**tokens).pooler_output, dim=-1)
    torch.testing.assert_close(torch.from_numpy(found["embeddings"]), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.tensor(table["embedding"].to_pylist()), words, atol=1e-5, rtol=0)


def test_an_exported_model_predicts_alike(
    feddtl: Command, model: TrainedModel, plain: Path, photos: Path, tmp_path: Path
) -> None:
    """It has its classes and its prompt beside it; without them, the classes have to be named."""
    picture = photos / "ant" / "0.png"
    [expected] = model.predict(picture)
    [shown] = read_json(feddtl("predict", plain, picture, "--json").out)
    assert shown["predictions"][0]["class"] == expected.class_name
    assert shown["predictions"][0]["probability"] == pytest.approx(expected.probability, abs=1e-5)
    bare = Path(shutil.copytree(plain, tmp_path / "bare"))
    (bare / "classes.json").write_text("{}")
    refused(feddtl("predict", bare, picture), "classes.json is damaged", "Export the run again")
    (bare / "classes.json").unlink()
    refused(feddtl("predict", bare, picture), "no class to choose from")
    assert read_json(feddtl("predict", bare, picture, "--classes", ", ".join(CLASSES), "--json").out) == [shown]


def test_peft_alone_loads_the_adapters_and_their_model(finished: Path, model: TrainedModel, bench: Bench) -> None:
    adapted = AutoPeftModel.from_pretrained(finished / "adapter" / "image", adapter_name="image")
    adapted.load_adapter(finished / "adapter" / "text", adapter_name="text")
    adapted.base_model.set_adapter(["image", "text"])
    picture = bench.photos / "test" / "ant" / "0.png"
    pixels = CLIPImageProcessorPil.from_pretrained(bench.clip)([Image.open(picture)], return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(bench.clip)(["a bee"], return_tensors="pt")
    with torch.no_grad():
        image = normalize(adapted.get_image_features(**pixels).pooler_output, dim=-1)
        text = normalize(adapted.get_text_features(**tokens).pooler_output, dim=-1)
    torch.testing.assert_close(model.encode_images(picture), image, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.encode_texts("a bee"), text, atol=1e-5, rtol=0)
