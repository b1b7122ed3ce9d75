from __future__ import annotations

from dataclasses import astuple

import pytest
from small_images import load, picture, png_bytes

from feddtl.data.catalog import CATALOG, DOMAINNET_TEN, TINY_IMAGENET, CatalogEntry
from feddtl.data.splits import base_novel_classes
from feddtl.errors import DataError

PAPER = {
    "cifar10",
    "cifar100",
    "eurosat",
    "tiny-imagenet",
    "oxford-pets",
    "flowers102",
    "caltech101",
    "caltech256",
    "food101",
    "domainnet",
    "officecaltech10",
}
ON_THE_HUB = [entry for entry in CATALOG.values() if entry.hub_id]
# Class names as the Hub has them, where the catalogue changes them.
HUB_NAMES: dict[str, tuple[str, ...]] = {
    "eurosat": tuple(CATALOG["eurosat"].readable_names),
    "tiny-imagenet": tuple(sorted(TINY_IMAGENET)[:4]),
    "caltech101": ("accordion", "airplanes", "faces", "faces_easy", "leopards", "motorbikes", "water_lilly"),
    "caltech256": ("015.bonsai-101", "ak47", "american-flag", "clutter", "tower-pisa", "t-shirt"),
    "domainnet": ("aircraft_carrier", *(name.replace(" ", "_") for name in DOMAINNET_TEN), "zigzag"),
}


def stand_in(entry: CatalogEntry, names: tuple[str, ...]) -> object:
    """What the Hub is declared to return: two images per class in every split, in the declared columns."""
    import datasets

    labels = [i % len(names) for i in range(2 * len(names))]
    image, label, domain, _ = astuple(entry.columns)
    as_text = label == "text"
    rows: dict[str, object] = {
        image: [{"bytes": png_bytes(picture(i % 200)), "path": None} for i in range(len(labels))],
        label: [names[label] for label in labels] if as_text else labels,
        "image_id": [str(i) for i in range(len(labels))],
    }
    features = {
        image: datasets.Image(),
        label: datasets.Value("string") if as_text else datasets.ClassLabel(names=list(names)),
        "image_id": datasets.Value("string"),
    }
    if domain:
        rows[domain] = [("photo", "sketch")[i // len(names)] for i in range(len(labels))]
        features[domain] = datasets.Value("string")
    split = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    wanted = [*entry.train_split.split("+"), *filter(None, [entry.test_split])]
    return datasets.DatasetDict(dict.fromkeys(wanted, split))


def test_the_paper_is_covered() -> None:
    assert set(CATALOG) >= PAPER
    assert all(name == entry.name for name, entry in CATALOG.items())


@pytest.mark.parametrize("entry", CATALOG.values(), ids=lambda entry: entry.name)
def test_entries_are_complete(entry: CatalogEntry) -> None:
    assert "{class}" in entry.prompt_template
    assert entry.licence
    assert entry.source_note.endswith(".")
    assert entry.hub_id.count("/") == bool(entry.hub_id)
    assert len(set(entry.readable_names.values())) <= len(entry.readable_names)


@pytest.mark.parametrize("entry", ON_THE_HUB, ids=lambda entry: entry.name)
def test_every_entry_loads_from_what_it_declares(entry: CatalogEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    names = HUB_NAMES.get(entry.name, ("apple_pie", "bird", "cat", "dog"))
    asked: list[str] = []

    def fetch(hub_id: str) -> object:
        asked.append(hub_id)
        return stand_in(entry, names)

    monkeypatch.setattr(datasets, "load_dataset", fetch)
    dataset = load(entry.name)
    assert asked == [entry.hub_id]
    assert dataset.name == entry.name
    assert dataset.prompt_template == entry.prompt_template
    assert len(set(dataset.class_names)) == len(dataset.class_names)
    assert not any("_" in name for name in dataset.class_names)
    assert not set(entry.drop_classes) & set(dataset.class_names)
    assert dataset.domain_names == (("photo", "sketch") if entry.columns.domain else ("all",))
    assert set(dataset.train.labels) == set(dataset.test.labels) == set(range(len(dataset.class_names)))
    assert bool(dataset.notes) == (not entry.test_split)
    base, novel = base_novel_classes(len(dataset.class_names))
    assert 0 <= len(base) - len(novel) <= 1
    assert dataset.train.read(0).mode == "RGB"


def load_with(monkeypatch: pytest.MonkeyPatch, source: str, names: tuple[str, ...]) -> tuple[str, ...]:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_: stand_in(CATALOG[source], names))
    return load(source).class_names


def test_readable_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_with(monkeypatch, "eurosat", HUB_NAMES["eurosat"])[-1] == "sea or lake"
    assert load_with(monkeypatch, "caltech256", HUB_NAMES["caltech256"]) == (
        "bonsai",
        "ak47",
        "american flag",
        "t-shirt",
        "leaning tower of Pisa",
    )
    assert load_with(monkeypatch, "caltech101", HUB_NAMES["caltech101"])[1:3] == ("airplane", "face")


def test_ten_classes_of_domainnet_keep_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    names = HUB_NAMES["domainnet"]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: stand_in(CATALOG["domainnet"], names))
    dataset = load("domainnet", domains="sketch")
    assert dataset.class_names == DOMAINNET_TEN
    # The stand-in's picture i is grey value i; sketches are its second half, and a class leads.
    assert dataset.train.read(0).getpixel((0, 0)) == (13, 13, 13)
    assert dataset.train.labels.tolist() == list(range(10))


def test_tiny_imagenet_has_200_names_under_either_ids() -> None:
    assert len(set(TINY_IMAGENET.values())) == 200
    assert TINY_IMAGENET["n07646821"] == TINY_IMAGENET["n01855672"] == "goose"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("tiny-imagenet", ("n01443537", "n99999999")),
        ("domainnet", ("bird", "zebra")),
        ("caltech101", ("airplanes", "airplane", "faces_easy")),
    ],
)
def test_a_changed_copy_is_refused(source: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="differ from the catalogue"):
        load_with(monkeypatch, source, names)


def test_a_missing_split_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict({"other": None}))
    with pytest.raises(DataError, match="no split 'train'; it has other"):
        load("cifar10")


def test_a_set_that_is_not_on_the_hub_says_where_it_is() -> None:
    with pytest.raises(DataError, match="pykale") as refused:
        load("officecaltech10")
    assert "ROOT/officecaltech10/DOMAIN/CLASS" in refused.value.hint
    assert "--data.root ROOT" in refused.value.hint
