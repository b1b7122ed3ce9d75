"""The page: what is on it, what it may not hold, that it is the same twice."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import pytest
from cli.small_runs import Bench, summary, write_photos
from edited_runs import change
from report.pages import Element, headings, parse, rows

from feddtl.evaluate import Predictions
from feddtl.predictions import ImagePredictions
from feddtl.report import write_report
from feddtl.report.tables import headline
from feddtl.results.grouping import settings_of
from feddtl.results.reading import collect
from feddtl.runs import RunFolder

HEADLINE = ("local", "base", "novel", "harmonic_mean")


@pytest.fixture(scope="module")
def page(bench: Bench, several: Path, tmp_path_factory: pytest.TempPathFactory) -> Element:
    path = tmp_path_factory.mktemp("page") / "page.html"
    return parse(write_report(several, path, images_of=[str(bench.photos)]).path)


def test_the_headline_is_the_mean_over_seeds(several: Path, page: Element) -> None:
    found = rows(page, "Accuracy in % after the last round")
    assert list(found) == ["Zero-shot", "FedDTL", "FedLoRA + two-stage (1 of 2 seeds)"]
    seeds = [summary(several / "runs" / f"feddtl-seed{seed}") for seed in (0, 1)]
    for label, part in (("Zero-shot", "zero_shot"), ("FedDTL", "final")):
        for text, key in zip(found[label], HEADLINE, strict=True):
            value, low, high = map(float, re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", text).groups())
            assert value == pytest.approx(mean(run[part][key] for run in seeds), abs=0.051)
            assert low <= value <= high
    final = summary(several / "runs" / "fedlora-seed0")["final"]
    texts = found["FedLoRA + two-stage (1 of 2 seeds)"]
    assert [text.split()[0] for text in texts] == [f"{final[key]:.1f}" for key in HEADLINE]
    assert "hierarchical bootstrap over test images and seeds" in page.text


def test_bold_is_what_is_above_every_other_row(several: Path, page: Element) -> None:
    """A few images cannot tell the methods apart, so no interval of a difference excludes zero."""
    table = page.all("table")[0]
    runs = collect(several).runs
    [setting] = settings_of(runs)
    leading = {label: [cell.best for cell in cells] for label, cells in headline(setting).rows}
    body = [row.all("td") for row in table.all("tbody")[0].all("tr")]
    assert [[bool(cell.all("strong")) for cell in row] for row in body] == list(leading.values())


def test_every_part_is_there(page: Element) -> None:
    assert headings(page)[0] == "FedDTL and FedLoRA on photos"
    assert {
        *(
            "Base",
            "Novel",
            "Harmonic mean",
            "Local",
            "Base against novel",
            "By client",
            "Base and novel names together",
        ),
        *("Reward", "Groups without signal", "KL to the reference", "Probability ratio", "Clipped ratios"),
        *("Images by client", "Time by phase", "Traffic", "Images that changed sides", "Runs"),
    } <= set(headings(page))
    assert list(rows(page, "Run folders")) == ["runs/feddtl-seed0", "runs/feddtl-seed1", "runs/fedlora-seed0"]
    own = rows(page, "Accuracy in % of the clients' own models")
    assert list(own) == ["Zero-shot", "FedDTL", "FedLoRA + two-stage"]
    assert own["Zero-shot"] == rows(page, "Accuracy in % after the last round")["Zero-shot"][1:]


def test_nothing_is_loaded_from_elsewhere(page: Element) -> None:
    for element in page.everything():
        assert element.tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "action", "data"):
            address = element.attributes.get(name, "#")
            assert address.startswith(("#", "data:image/")), (element.tag, address)
        assert not any(name.startswith("on") for name in element.attributes)
    [style] = page.all("style")
    assert "url(" not in style.text
    assert "@import" not in style.text
    [policy] = [meta for meta in page.all("meta") if meta.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.attributes["content"].startswith("default-src 'none'")


def test_every_figure_is_described_and_every_table_has_headers(page: Element) -> None:
    figures = page.all("figure")
    assert len(figures) > 10
    for figure in figures:
        [drawing] = figure.all("svg", role="img")
        assert len(drawing.attributes["aria-label"]) > 20
        assert figure.all("h4")[0].text
    for table in page.all("table"):
        assert table.attributes["aria-label"]
        assert table.all("th", scope="col")
        assert all(row.all("th", scope="row") for body in table.all("tbody") for row in body.all("tr"))
    assert all(image.attributes["alt"] for image in page.all("img"))


def test_identifiers_are_unique_and_references_lead_somewhere(page: Element) -> None:
    elements = page.everything()
    identifiers = [element.attributes["id"] for element in elements if "id" in element.attributes]
    assert len(identifiers) == len(set(identifiers))
    values = " ".join(value for element in elements for value in element.attributes.values())
    used = set(re.findall(r"url\(#([\w-]+)\)", values))
    used |= {e.attributes["href"][1:] for e in elements if e.attributes.get("href", "").startswith("#")}
    assert used <= set(identifiers)
    assert used


def test_drawings_take_the_colours_of_the_page(page: Element) -> None:
    """A colour of their own would be invisible on a dark page; only what is not seen may have none."""
    known = set(re.findall(r"--([\w-]+):", page.all("style")[0].text))
    for drawing in page.all("svg", role="img"):
        styles = " ".join(element.attributes.get("style", "") for element in drawing.everything())
        assert not re.search(r"#[0-9a-f]{3,6}", styles.replace("url(#", ""))
        assert set(re.findall(r"var\(--([\w-]+)\)", styles)) <= known
        assert "DejaVu" not in styles


def test_the_same_runs_give_the_same_page(several: Path, tmp_path: Path) -> None:
    """Also in another folder."""
    elsewhere = Path(shutil.copytree(several, tmp_path / "elsewhere"))
    first, second = (
        write_report(runs, tmp_path / f"{runs.name}.html").path.read_bytes() for runs in (several, elsewhere)
    )
    assert first == second
    assert len(first) < 1_000_000


@pytest.mark.usefixtures("undrawn")
def test_without_images_there_are_none(several: Path, tmp_path: Path) -> None:
    page = parse(write_report(several, tmp_path / "page", images=False).path)
    assert page.all("img") == []
    assert "This page was made without images." in page.text
    assert "may contain images" not in page.text


def test_thumbnails_are_of_images_that_changed_sides(several: Path, page: Element) -> None:
    changed = rows(page, "Images that changed sides")
    images = page.all("ul", **{"class": "images"})
    shown = sum(len(each.all("li")) for each in images)
    assert 0 < shown <= 24
    assert shown <= sum(int(cell) for cells in changed.values() for cell in cells[:2])
    for each in images:
        for item in each.all("li"):
            truth = item.all("b")[0].text
            assert item.all("i")[0].text != truth
            assert item.all("img")[0].attributes["alt"] == f"An image of {truth}"


@pytest.mark.usefixtures("undrawn")
def test_images_are_read_from_confirmed_sources_alone(bench: Bench, several: Path, tmp_path: Path) -> None:
    """The run folder of a stranger could name any folder of whoever reads it."""
    written = write_report(several, tmp_path / "page.html", images_of=[str(bench.photos.parent)])
    page = parse(written.path)
    assert written.unconfirmed == (str(bench.photos),)
    assert page.all("img") == []
    [problem] = page.all("div", role="alert")
    assert "read only from a source given with --images-of" in problem.text
    same = bench.photos.parent / "elsewhere" / ".." / bench.photos.name
    (bench.photos.parent / "elsewhere").mkdir()
    assert write_report(several, tmp_path / "page.html", images_of=[str(same)]).unconfirmed == ()
    (bench.photos.parent / "elsewhere").rmdir()


@pytest.mark.usefixtures("undrawn")
def test_a_source_that_is_gone_is_named_and_the_rest_is_there(bench: Bench, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    run = bench.run(tmp_path / "run", "--data.source", photos, "--rounds", 2)
    shutil.rmtree(photos)
    page = parse(write_report(run, images_of=[str(photos)]).path)
    [problem] = page.all("div", role="alert")
    assert "The images cannot be shown." in problem.text
    assert "photos" in problem.text
    assert page.all("img") == []
    assert "Images by client" in headings(page)


@pytest.mark.usefixtures("undrawn")
def test_other_images_than_the_run_had_are_not_shown(bench: Bench, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    run = bench.run(tmp_path / "run", "--data.source", photos, "--rounds", 2)
    (photos / "test" / "ant" / "0.png").unlink()
    page = parse(write_report(run, images_of=[str(photos)]).path)
    assert "has different test images from those of the run run" in page.all("div", role="alert")[0].text
    assert page.all("img") == []


def test_names_are_text_whatever_they_hold(bench: Bench, tmp_path: Path) -> None:
    """Class names are folder names of users: markup, mathematics, quotes, control characters, other scripts."""
    names = ('<script>alert(1)<"script>', "$\\frac{1}$ & co", "a'b\"c", "line\nbreak\x07", "猫", "&lt;b&gt;")
    photos = write_photos(tmp_path / "photos", classes=names)
    run = bench.run(tmp_path / "run", "--data.source", photos, "--rounds", 2)
    page = parse(write_report(run, images_of=[str(photos)]).path)
    assert page.all("script") == []
    drawn = {text.text for text in page.all("text")}
    assert {'<script>alert(1)<"script>', "$\\frac{1}$ & co"} <= drawn
    labels = " ".join(element.attributes.get("alt", "") for element in page.all("img"))
    assert "\x07" not in page.text + labels


@pytest.mark.usefixtures("undrawn")
def test_domains(with_domains: Path) -> None:
    page = parse(write_report(with_domains).path)
    [table] = [t for t in page.all("table") if "by domain" in t.attributes["aria-label"]]
    assert [cell.text for cell in table.all("thead")[0].all("th")] == [
        *("<b>sketch, base", "<b>sketch, novel", "day & night, base", "day & night, novel"),
    ]
    pairs = summary(with_domains)["final_domains"]
    found = rows(page, "Accuracy in % by domain")
    assert found["FedDTL"] == [f"{value:.1f}" for name in ("<b>sketch", "day & night") for value in pairs[name]]
    # Both domains have as many images, so the mean over domains is the accuracy over all.
    before = [float(cell) for cell in found["Zero-shot"]]
    assert (before[0] + before[2]) / 2 == pytest.approx(summary(with_domains)["zero_shot"]["base"], abs=0.1)


def test_zero_shot_alone(bench: Bench, tmp_path: Path) -> None:
    run = bench.run(tmp_path / "run", "--method", "zero-shot")
    page = parse(write_report(run).path)
    assert headings(page)[0] == "Zero-shot on photos"
    assert list(rows(page, "Accuracy in %")) == ["Zero-shot"]
    assert page.all("img") == []
    assert "Accuracy by round" not in headings(page)


def without_novel_classes(run: Path) -> Path:
    """The run as it would be if its data had base classes only."""

    nothing = {"novel": None, "harmonic_mean": None}
    change(run / "data.json", lambda data: data.update(novel_classes=[], test_novel_images=0))
    change(
        run / "metrics.jsonl",
        lambda record: record.update(nothing),
        lambda record: record.pop("client_models", None),
    )
    change(run / "summary.json", lambda found: [found[key].update(nothing) for key in ("final", "zero_shot")])
    change(run / "summary.json", lambda found: found.update(final_client_models=None))
    folder = RunFolder.open(run)
    found = folder.predictions
    assert found is not None
    base = found.labels < 3
    before, after = (
        Predictions(model.among_half[base], model.among_half[base]) for model in (found.zero_shot, found.final)
    )
    folder.write_predictions(
        ImagePredictions(found.labels[base], found.domains[base], found.owners[base], before, after)
    )
    return run


def test_without_novel_classes(copy_of: Callable[[], Path]) -> None:
    page = parse(write_report(without_novel_classes(copy_of() / "runs" / "feddtl-seed0"), images=False).path)
    assert rows(page, "Accuracy in % after")["FedDTL"][2:] == ["–", "–"]
    absent = {"Novel", "Harmonic mean", "Base against novel", "Base and novel names together"}
    assert absent.isdisjoint(headings(page))
    assert {"Base", "Local", "By client"} <= set(headings(page))
    assert "3 base, no novel" in page.text
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)


def test_an_unfinished_run_says_so(copy_of: Callable[[], Path]) -> None:
    """What an interruption after round 2 leaves: two records, no summary, no predictions."""
    folder = copy_of() / "runs" / "feddtl-seed0"
    for name in ("summary.json", "predictions.safetensors"):
        (folder / name).unlink()
    metrics = folder / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))
    page = parse(write_report(folder).path)
    record = json.loads(metrics.read_text().splitlines()[1])
    found = rows(page, "Accuracy in %")
    assert found == {
        "FedDTL (unfinished, after round 2 of 4)": [f"{record[key]:.1f}" for key in HEADLINE],
    }
    assert rows(page, "Run folders")["feddtl-seed0"][3] == "unfinished, 2 of 4 rounds"
    assert {"Harmonic mean", "Time by phase"} <= set(headings(page))


@pytest.mark.usefixtures("undrawn")
def test_a_mean_is_over_finished_runs_where_there_are_any(several: Path, copy_of: Callable[[], Path]) -> None:
    folder = copy_of()
    (folder / "runs" / "feddtl-seed0" / "summary.json").unlink()
    found = rows(parse(write_report(folder).path), "Accuracy in % after the last round")
    final = summary(several / "runs" / "feddtl-seed1")["final"]
    texts = found["FedDTL (1 of 2 runs finished)"]
    assert [text.split()[0] for text in texts] == [f"{final[key]:.1f}" for key in HEADLINE]


def test_a_run_without_a_scored_round(copy_of: Callable[[], Path]) -> None:
    """Interrupted in round 1: nothing but what it was about to do."""
    folder = copy_of() / "runs" / "feddtl-seed0"
    for name in ("summary.json", "predictions.safetensors", "metrics.jsonl"):
        (folder / name).unlink()
    page = parse(write_report(folder).path)
    assert rows(page, "Accuracy in %") == {"FedDTL (unfinished, after round 0 of 4)": ["–"] * 4}
    assert "Images by client" in headings(page)


def test_no_path_of_this_machine_is_on_the_page(bench: Bench, tmp_path: Path) -> None:
    """The model and the data source are absolute paths here, and a note, a setting and an error name them."""
    photos = write_photos(tmp_path / "private" / "photos")
    (photos / "extra" / "ant").mkdir(parents=True)
    run = bench.run(tmp_path / "run", "--data.source", photos, "--rounds", 2)
    assert str(photos) in json.loads((run / "data.json").read_text())["notes"][0]
    photos.rename(tmp_path / "private" / "elsewhere")
    page = parse(write_report(run).path)
    assert "Folders of photos other than train and test are ignored: extra." in page.text
    assert rows(page, "Settings that differ")["model"][0] == bench.clip.name
    assert rows(page, "Settings that differ")["data.source"][0] == "photos"
    for private in (str(bench.clip.parent), str(tmp_path)):
        assert private not in (run / "report.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_settings_get_parts_of_their_own(bench: Bench, tmp_path: Path) -> None:
    """Runs on other shares of the images are not averaged; each part is linked from the top."""
    for kind in ("iid", "non-iid"):
        bench.run(tmp_path / "runs" / kind, "--data.partition", kind, "--rounds", 1)
    page = parse(write_report(tmp_path / "runs").path)
    titles = [heading.text for heading in page.all("h2")]
    assert [title.split(", ")[2] for title in titles] == ["iid", "non-iid"]
    assert [link.text for link in page.all("nav")[0].all("a")] == titles


@pytest.mark.usefixtures("undrawn")
def test_notes_of_the_rl_rounds_are_there(bench: Bench, tmp_path: Path) -> None:
    """Of several runs, each with the name of its run."""
    for seed in (0, 1):
        bench.run(tmp_path / f"run{seed}", "--rl.noise-std", "auto", "--seed", seed, "--rounds", 2)
    assert "Note: rl.noise_std = 'auto' is " in parse(write_report(tmp_path / "run0").path).text
    text = parse(write_report(tmp_path).path).text
    assert "Note: run0: rl.noise_std = 'auto' is " in text
    assert "Note: run1: rl.noise_std = 'auto' is " in text
