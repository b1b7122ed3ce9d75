"""`feddtl evaluate` and `feddtl export`: the model of a run on its own and on other data."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from cli.small_runs import CLASSES, Bench, Command, contents, refused, summary, write_photos
from peft import PeftModel
from PIL import Image
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil


def by_classes(text: str) -> dict[str, dict[str, Any]]:
    return {score["classes"]: score for score in json.loads(text)}


@pytest.mark.parametrize("flags", [(), ("--method", "fedlora"), ("--compute.activations", "bfloat16")])
def test_base_and_novel_equal_the_summary(
    bench: Bench, feddtl: Command, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    run = bench.run(tmp_path / "run", *flags)
    scores = by_classes(feddtl("evaluate", run, "--json").out)
    final, zero_shot = (summary(run)[when] for when in ("final", "zero_shot"))
    for name in ("base", "novel"):
        assert round(scores[name]["accuracy"], 4) == final[name]
        assert round(scores[name]["zero_shot"], 4) == zero_shot[name]


def test_choosing_among_all_classes_is_harder(feddtl: Command, finished: Path) -> None:
    scores = by_classes(feddtl("evaluate", finished, "--json").out)
    assert {name: score["choices"] for name, score in scores.items()} == {"base": 3, "novel": 3, "all": 6}
    assert {name: score["images"] for name, score in scores.items()} == {"base": 9, "novel": 9, "all": 18}
    assert scores["all"]["accuracy"] <= (scores["base"]["accuracy"] + scores["novel"]["accuracy"]) / 2


def test_a_table_for_people(feddtl: Command, finished: Path) -> None:
    answer = feddtl("evaluate", finished, "--classes", "novel", "base")
    assert answer.code == 0
    assert "Accuracy in % on photos" in answer.out
    assert re.search(r"Images .* Zero-shot .* Accuracy", answer.out)
    rows = [line.split()[1] for line in answer.out.splitlines() if line.startswith("│")]
    assert rows == ["novel", "base"]


def test_each_class_with_its_images(feddtl: Command, finished: Path) -> None:
    """Three images of each class: counts, and no percentages, of which each would be a multiple of 33."""
    scores = by_classes(feddtl("evaluate", finished, "--json").out)
    for part in scores.values():
        counts = part["by_class"].values()
        assert sum(count["images"] for count in counts) == part["images"]
        assert 100 * sum(count["correct"] for count in counts) / part["images"] == pytest.approx(part["accuracy"])
    assert list(scores["base"]["by_class"]) == list(CLASSES[:3])
    shown = " ".join(feddtl("evaluate", finished, "--classes", "base", "--by-class").out.split())
    assert "by class" not in feddtl("evaluate", finished, "--classes", "base").out
    for name, count in scores["base"]["by_class"].items():
        assert f"│ {name} │ base │ 3 │ {count['zero_shot_correct']} of 3 │ {count['correct']} of 3 │" in shown


def test_zero_shot_runs_can_be_scored(bench: Bench, feddtl: Command, tmp_path: Path) -> None:
    run = bench.run(tmp_path / "run", "--method", "zero-shot")
    scores = by_classes(feddtl("evaluate", run, "--json", "--classes", "base").out)
    assert round(scores["base"]["accuracy"], 4) == summary(run)["final"]["base"]


def test_other_data_with_other_classes_and_domains(feddtl: Command, finished: Path, tmp_path: Path) -> None:
    """Of its classes, the run trained the bee and the cat, and the dog is novel."""
    for domain in ("day", "night"):
        write_photos(tmp_path / "zoo", classes=["BEE", "cat", "dog", "jay"], domain=domain)
    flags = ("--data.source", tmp_path / "zoo", "--data.prompt", "{class}!")
    scores = by_classes(feddtl("evaluate", finished, *flags, "--json").out)
    assert {score["dataset"] for score in scores.values()} == {"zoo"}
    assert {name: score["images"] for name, score in scores.items()} == {"base": 12, "novel": 12, "all": 24}
    for score in scores.values():
        assert set(score["domains"]) == {"day", "night"}
        assert sum(part["accuracy"] for part in score["domains"].values()) / 2 == pytest.approx(score["accuracy"])
    night = by_classes(feddtl("evaluate", finished, *flags, "--data.domains", "night", "--json").out)
    assert night["all"]["accuracy"] == pytest.approx(scores["all"]["domains"]["night"]["accuracy"])
    assert list(scores["base"]["by_class"]) == ["bee", "cat"]
    answer = feddtl("evaluate", finished, *flags)
    assert "note: 2 of the 4 classes of zoo were trained in this run and are base classes: bee, cat" in answer.err
    table = answer.out
    assert "day" in table
    assert "night" in table
    assert "domains" not in table
    one = " ".join(feddtl("evaluate", finished, *flags, "--data.domains", "night", "--classes", "all").out.split())
    assert one.startswith("Accuracy in % on zoo, domains night")
    by_name = ("--data.source", "Zoo", "--data.root", tmp_path, "--data.prompt", "{class}!")
    assert by_classes(feddtl("evaluate", finished, *by_name, "--json").out) == scores


@pytest.mark.parametrize("inside", [True, False], ids=["splits inside", "no splits"])
def test_a_folder_of_sites(feddtl: Command, finished: Path, tmp_path: Path, inside: bool) -> None:
    """Without the flag it is refused, or read as domains with a note; with it, each site has a line."""
    for name, classes in (("=north", CLASSES[:2]), ("south", CLASSES[1:4])):
        root = write_photos(tmp_path / ("sites" if inside else "split") / name, classes=classes)
        if not inside:
            (tmp_path / "sites").mkdir(exist_ok=True)
            (root / "train").rename(tmp_path / "sites" / name)
    flags = ("--data.source", tmp_path / "sites")
    if inside:
        refused(feddtl("evaluate", finished, *flags), "looks like a folder of sites", "add --data.partition sites")
    else:
        assert "read as domains of one data set. If each is a site," in feddtl("evaluate", finished, *flags).err
    flags = (*flags, "--data.partition", "sites")
    answer = feddtl("evaluate", finished, *flags, "--json", "--csv", "scores.csv")
    scores = by_classes(answer.out)
    zero_shot = summary(finished)["zero_shot"]
    assert zero_shot["base"] is not None
    for score in scores.values():
        assert score["domains"] == {}
        parts = score["sites"]
        assert list(parts) == ["=north", "south"]
        for total, key in (("accuracy", "correct"), ("zero_shot", "zero_shot_correct")):
            for counts in (parts, score["by_class"]):
                right = sum(part[key] for part in counts.values())
                assert 100 * right / score["images"] == pytest.approx(score[total])
            assert parts["south"][total] == 100 * parts["south"][key] / parts["south"]["images"]
    rows = list(csv.DictReader(Path("scores.csv").read_text().splitlines()))
    assert [row["site"] for row in rows if row["classes"] == "base" and row["site"]] == ["'=north", "south"]
    assert len(rows) == 3 * (1 + 2) + 2 * sum(scores[name]["choices"] for name in ("base", "novel"))
    shown = " ".join(feddtl("evaluate", finished, *flags, "--classes", "all").out.split())
    for name, part in scores["all"]["sites"].items():
        assert f"│ │ {name} │ │ {part['images']} │ {part['zero_shot']:.1f} │ {part['accuracy']:.1f} │" in shown


def test_what_is_novel_is_chosen_for_generated_shapes(feddtl: Command, finished: Path) -> None:
    """The default domains: 32 images of each class; the run trained none of them, so none is a base class."""
    flags = ("--data.source", "shapes", "--data.domains", "fog")
    scored = {}
    for novel in ("", "pairs", "shapes"):
        more = ("--data.novel", novel) if novel else ()
        scored[novel] = by_classes(feddtl("evaluate", finished, *flags, *more, "--json").out)
        assert {name: score["choices"] for name, score in scored[novel].items()} == {"base": 0, "novel": 64, "all": 64}
        assert scored[novel]["base"]["accuracy"] is None
    assert scored[""] == scored["pairs"] != scored["shapes"]
    refused(
        feddtl("evaluate", finished, "--data.novel", "shapes"),
        "data.novel = 'shapes' cannot be set",
        "--data.novel pairs",
    )


def test_classes_that_take_part(feddtl: Command, finished: Path) -> None:
    """The list may mix both kinds in any order: what the run trained is base, the rest is novel."""
    Path("names.txt").write_text("dog\nCAT\nant\n")
    scores = by_classes(feddtl("evaluate", finished, "--json", "--data.classes", "@names.txt").out)
    assert {name: list(score["by_class"]) for name, score in scores.items()} == {
        "base": ["cat", "ant"],
        "novel": ["dog"],
        "all": ["cat", "ant", "dog"],
    }
    refused(feddtl("evaluate", finished, "--data.classes", "cat,dgo"), "no class 'dgo'", "Did you mean 'dog'?")
    refused(feddtl("evaluate", finished, "--data.classes", "cat,Cat"), "data.classes names 'Cat' twice")
    refused(feddtl("evaluate", finished, "--data.classes", " , "), "data.classes = ' , '")


def test_the_prompt_matters(feddtl: Command, finished: Path) -> None:
    """Same images, other words: the flags reach the text tower. One prompt alone may change no prediction."""
    prompts = ("a photo of a {class}.", "zzzz {class} zzzz zzzz", "{class}", "{class} {class} {class} {class}")
    assert len({feddtl("evaluate", finished, "--data.prompt", prompt, "--json").out for prompt in prompts}) > 1


def test_evaluating_changes_nothing(feddtl: Command, finished: Path) -> None:
    before = contents(finished)
    assert feddtl("evaluate", finished).code == 0
    assert contents(finished) == before


# --- export ------------------------------------------------------------------------------------------


@torch.no_grad()
def logits(model: CLIPModel, folder: Path, files: list[Path]) -> torch.Tensor:
    """Logits (N, C) by transformers alone."""
    images = [Image.open(file).convert("RGB") for file in files]
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(images=images, return_tensors="pt")
    texts = [f"a photo of a {name}." for name in CLASSES]
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    return model(**pixels, **tokens).logits_per_image


def test_export_is_an_ordinary_clip_that_answers_as_the_run_does(bench: Bench, feddtl: Command, finished: Path) -> None:
    """Three ways to the same model: merged by us, adapters by peft, and `feddtl evaluate`."""
    answer = feddtl("export", finished, "model")
    assert answer.code == 0
    assert "CLIPModel.from_pretrained('model')" in answer.out
    files = sorted((bench.photos / "test").glob("*/*.png"))
    merged = logits(CLIPModel.from_pretrained("model"), Path("model"), files)

    adapted = CLIPModel.from_pretrained(bench.clip)
    for tower in ("image", "text"):
        adapted = PeftModel.from_pretrained(adapted, finished / "adapter" / tower).merge_and_unload()
    torch.testing.assert_close(merged, logits(adapted, bench.clip, files))

    labels = torch.tensor([CLASSES.index(file.parent.name) for file in files])
    expected = float((merged.argmax(dim=1) == labels).float().mean()) * 100
    scores = by_classes(feddtl("evaluate", finished, "--json", "--classes", "all").out)
    assert scores["all"]["accuracy"] == pytest.approx(expected)


def test_an_exported_model_can_be_trained_on(bench: Bench, feddtl: Command, finished: Path) -> None:
    assert feddtl("export", finished, "model").code == 0
    assert feddtl("run", *bench.flags("--model", "./model", "--rounds", 1, "--output", "next")).code == 0
    assert summary(Path("next"))["zero_shot"]["base"] == summary(finished)["final"]["base"]


def test_zero_shot_has_nothing_to_export(bench: Bench, feddtl: Command, tmp_path: Path) -> None:
    run = bench.run(tmp_path / "run", "--method", "zero-shot")
    answer = feddtl("export", run, "model")
    assert answer.code == 1
    assert "'zero-shot', which has no adapters" in answer.err
