"""`evaluation.images = "held-back"`: no test image is read, and every number says what it is measured on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.small_runs import Bench, Command, outcome, refused, summary, write_photos
from report.pages import parse, rows

from feddtl.report import write_report

# Fixed, because without a cache each run would measure the kernels again.
KERNELS = ("--compute.precision", "float32", "--compute.attention", "sdpa")
HELD_BACK = ("--evaluation.images", "held-back", "--compute.cache-folder", "off", *KERNELS)
WHERE = "held-back training images"


@pytest.fixture(scope="module")
def unreadable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures whose test split can be listed, but not read."""
    photos = write_photos(tmp_path_factory.mktemp("unreadable") / "photos")
    for file in (photos / "test").rglob("*.png"):
        file.write_bytes(b"no image")
    return photos


@pytest.fixture(scope="module")
def run(bench: Bench, unreadable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that is scored on held-back images."""
    return bench.run(tmp_path_factory.mktemp("held-back") / "run", "--data.source", unreadable, *HELD_BACK)


def test_test_images_are_never_read(bench: Bench, feddtl: Command, unreadable: Path, run: Path) -> None:
    """Five images of a class: one is held back."""
    other = ("--data.source", unreadable, "--compute.cache-folder", "off", "--output", "other")
    refused(feddtl("run", *bench.flags(*other, "--quiet")), "test/")
    data = json.loads((run / "data.json").read_text())
    assert data["scored_images"] == "held-back"
    assert [data[key] for key in ("train_images", "test_base_images", "test_novel_images")] == [12, 3, 3]
    assert summary(run)["scored_on"] == "held-back"


def test_the_same_seed_gives_the_same_run(bench: Bench, unreadable: Path, run: Path, tmp_path: Path) -> None:
    assert outcome(bench.run(tmp_path / "run", "--data.source", unreadable, *HELD_BACK)) == outcome(run)


def test_the_terminal_says_so(bench: Bench, feddtl: Command) -> None:
    answer = feddtl("run", *bench.flags("--output", "run", *HELD_BACK))
    assert answer.code == 0
    assert f"note: Scored on {WHERE}, not on test images (evaluation.images): 3 images" in answer.err
    assert answer.err.count(WHERE) == 1
    assert f"Accuracy in % after 4 rounds, on {WHERE}" in " ".join(answer.out.split())
    assert f"highest on the {WHERE}: HM" in answer.out
    assert "test images" not in answer.out


def test_scores_on_test_images_say_that_they_are_others(feddtl: Command, bench: Bench, run: Path) -> None:
    said = "note: These are test images, and the run's own accuracies are on held-back training images"
    assert said in feddtl("evaluate", run, "--data.source", bench.photos).err


def test_the_report_says_so_and_shows_held_back_images(run: Path, unreadable: Path, tmp_path: Path) -> None:
    page = parse(write_report(run, tmp_path / "page.html", images_of=[str(unreadable)]).path)
    assert f"All accuracies of this setting are measured on {WHERE}" in page.text
    assert rows(page, f"Accuracy in % on {WHERE} after the last round")
    assert f"{WHERE}, 20% of each class" in page.text
    assert "12 training, 3 + 3 held back" in page.text
    assert "cannot be shown" not in page.text
    assert "test images" not in page.text.replace("nothing was chosen by test images", "").replace(
        "not comparable with numbers on test images", ""
    ).replace("not on test images", "")


def test_a_comparison_never_mixes_them_with_test_images(bench: Bench, feddtl: Command, tmp_path: Path) -> None:
    file = tmp_path / "both.toml"
    file.write_text(
        f"""
        model = "{bench.clip}"
        rounds = 2
        data.source = "{bench.photos}"
        data.clients = 3
        data.class_split = "half"
        [variants]
        test = {{ evaluation.images = "test" }}
        chosen = {{ evaluation.images = "held-back" }}
        """
    )
    answer = feddtl("compare", file, "--output", "out", "--quiet")
    assert answer.code == 0
    titles = [line for line in Path("out/table.md").read_text().splitlines() if line.startswith("#")]
    assert [title for title in titles if title.startswith("## Accuracy in %")] == [
        "## Accuracy in % by condition: photos, 3 clients, 2 rounds, clip",
        f"## Accuracy in % on {WHERE} by condition: photos, 3 clients, 2 rounds, clip",
        "## Accuracy in %: photos, few-shot, non-iid, 3 clients, 2 rounds, clip",
        f"## Accuracy in %: photos, few-shot, non-iid, 3 clients, 2 rounds, clip, scored on 20% {WHERE}",
    ]
    assert "Scored on held-back training images: not comparable with numbers on test images." in answer.out
    of_chosen = Path("out/table.md").read_text().partition(f"2 rounds, clip, scored on 20% {WHERE}")[2]
    assert f"bootstrap over {WHERE}" in of_chosen
    assert "bootstrap over test images" not in of_chosen
