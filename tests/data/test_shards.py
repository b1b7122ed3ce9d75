"""Several parquet files of a split: labels keep their meaning, whatever the types and lists of each file."""

from __future__ import annotations

import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_images import load, picture, png_bytes

from feddtl.errors import DataError

CAT, DOG, FOX = 40, 80, 120
GREYS = {"cat": CAT, "dog": DOG, "fox": FOX, "Käfer": 200, "ant": 210}


def rows(*names):
    """Images whose grey says their class."""
    return [{"bytes": png_bytes(picture(GREYS[unicodedata.normalize("NFC", name)])), "path": None} for name in names]


@pytest.fixture
def write(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def plain(file, names, labels, **more):
        target = tmp_path / "set" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": rows(*names), "label": labels, **more}), target)
        return target.parent

    def listed(file, names, order, **more):
        target = tmp_path / "set" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list(order)))
        features.update({column: datasets.Value("string") for column in more})
        content = {"image": rows(*names), "label": [order.index(name) for name in names], **more}
        datasets.Dataset.from_dict(content, features=features).to_parquet(target)
        return target.parent

    return lambda file, names, order=None, labels=None, **more: (
        listed(file, names, order, **more) if order else plain(file, names, names if labels is None else labels, **more)
    )


def seen(dataset):
    """(class name, grey) of each image."""
    tables = (dataset.train, dataset.test)
    return sorted(
        (dataset.class_names[label], table.read(i).getpixel((0, 0))[0])
        for table in tables
        for i, label in enumerate(table.labels.tolist())
    )


def right(*names):
    return sorted((name, GREYS[name]) for name in names)


PETS = ["cat", "dog"] * 3


@pytest.mark.parametrize(
    ("first", "second", "classes"),
    [
        ({"order": ["cat", "dog"]}, {"order": ["dog", "cat"]}, ("cat", "dog")),
        ({"order": ["dog", "cat"]}, {"order": ["cat", "dog"]}, ("dog", "cat")),
        ({"order": ["dog", "cat"]}, {"order": ["fox", "cat", "dog"]}, ("cat", "dog", "fox")),
        ({"order": ["dog", "cat"]}, {}, ("cat", "dog")),
        ({}, {"labels": pa.array(PETS, pa.large_string())}, ("cat", "dog")),
        ({"labels": pa.array(PETS, pa.string_view())}, {"order": ["dog", "cat"]}, ("cat", "dog")),
        ({"labels": pa.array(PETS).dictionary_encode()}, {}, ("cat", "dog")),
        ({"extra": pa.array([1] * 6, pa.int32())}, {"extra": pa.array([1] * 6, pa.int64())}, ("cat", "dog")),
        ({"extra": pa.array(["x"] * 6)}, {"extra": pa.array([[1.5]] * 6)}, ("cat", "dog")),
        ({"extra": pa.array(["x"] * 6)}, {}, ("cat", "dog")),
    ],
    ids=[
        "order",
        "other order",
        "more names",
        "names and text",
        "large text",
        "view and names",
        "dictionary",
        "numbers of other size",
        "another column of other type",
        "another column in one",
    ],
)
def test_labels_of_files_with_other_types_keep_their_meaning(write, first, second, classes):
    write("train-0.parquet", PETS, **first)
    dataset = load(write("train-1.parquet", PETS, **second))
    assert dataset.class_names == classes
    assert seen(dataset) == right(*PETS, *PETS)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"labels": pa.array([0, 1] * 3)}, r"'label' has names in train-0\.parquet, and whole numbers in train-1"),
        ({"labels": pa.array([0, 1] * 3, pa.uint8())}, "whole numbers"),
        ({"labels": pa.array([0.0, 1.0] * 3)}, "and double in|and float64 in"),
        ({"labels": pa.array([True, False] * 3)}, "and bool in"),
        ({"labels": pa.nulls(6)}, "and null in"),
    ],
)
@pytest.mark.parametrize("first", [{"order": ["cat", "dog"]}, {}], ids=["names", "text"])
def test_labels_without_names_beside_names_are_refused(write, first, second, message):
    write("train-0.parquet", PETS, **first)
    folder = write("train-1.parquet", PETS, **second)
    with pytest.raises(DataError, match=message) as refused:
        load(folder)
    assert "ClassLabel" in refused.value.hint


def test_a_label_that_is_missing_in_one_file_is_named(write):
    write("train-0.parquet", PETS, order=["cat", "dog"])
    folder = write("train-1.parquet", PETS, labels=pa.array(["cat", None, "cat", "dog", "", "dog"]))
    with pytest.raises(DataError, match=r"Row 7 of .* has no label.*\(2 such rows\)"):
        load(folder)


def test_a_column_of_classes_that_one_file_lacks_is_named(write):
    folder = write("train-0.parquet", PETS)
    pq.write_table(pa.table({"image": rows(*PETS), "what": PETS}), folder / "train-1.parquet")
    with pytest.raises(DataError, match=r"train-1\.parquet has no column 'label', which train-0\.parquet has"):
        load(folder)


@pytest.mark.parametrize(
    ("train", "test"), [({"order": ["dog", "cat"]}, {"order": ["cat", "dog"]}), ({"order": ["dog", "cat"]}, {})]
)
def test_train_and_test_may_list_the_classes_in_another_order(write, train, test):
    write("train.parquet", PETS, **train)
    dataset = load(write("test.parquet", PETS, **test))
    assert dataset.class_names == ("dog", "cat")
    assert len(dataset.test) == 6
    assert seen(dataset) == right(*PETS, *PETS)


def test_names_in_two_unicode_forms_are_one_class(write):
    apart = unicodedata.normalize("NFD", "Käfer")
    write("train-0.parquet", ["ant", "Käfer"] * 3, order=["Käfer", "ant"])
    write("train-1.parquet", ["ant", apart] * 3, order=["ant", apart])
    dataset = load(write("test.parquet", [apart, "ant"]))
    assert dataset.class_names == ("Käfer", "ant")
    assert seen(dataset) == right(*["ant", "Käfer"] * 7)


def test_a_file_without_rows_and_one_with_a_second_column_of_classes_are_read(write, capfd):
    write("train-0.parquet", PETS)
    write("train-1.parquet", PETS, category=pa.array(PETS))
    capfd.readouterr()
    assert seen(load(write("train-2.parquet", [], labels=pa.array([], pa.int64())))) == right(*PETS, *PETS)
    assert capfd.readouterr() == ("", "")


def test_domains_of_the_test_files_alone_and_rows_without_one(write):
    import datasets

    folder = write("train.parquet", PETS, domain=["sea", "land"] * 3)
    write("test.parquet", PETS, domain=["air", "sea"] * 3)
    assert load(folder).domain_names == ("air", "land", "sea")
    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(names=["cat", "dog"]),
        domain=datasets.ClassLabel(names=["sea"]),
    )
    content = {"image": rows(*PETS), "label": [0, 1] * 3, "domain": [0] * 6}
    datasets.Dataset.from_dict(content, features=features).to_parquet(folder / "train.parquet")
    assert load(folder).domain_names == ("sea", "air")
    with pytest.raises(DataError, match="Row 1 has no value in the column 'domain'"):
        load(write("test.parquet", PETS, domain=["air", None] * 3))


@pytest.mark.parametrize(
    ("column", "values", "refused"),
    [
        ("split", ["train", "train", "TEST set"] * 2, True),
        ("domain", ["training", "val", None] * 2, True),
        ("validation", [True, False] * 3, True),
        ("split", ["test"] * 6, False),
        ("split", ["train", "train-extra"] * 3, False),
        ("place", ["train", "station"] * 3, False),
        ("caption", ["a test", "a train"] * 3, False),
        ("blurry", [True, False] * 3, False),
    ],
)
def test_a_column_of_splits_is_refused(write, column, values, refused):
    folder = write("pets.parquet", PETS, **{column: values})
    if refused:
        with pytest.raises(DataError, match=f"'{column}' of .* looks like the split of each row"):
            load(folder)
    else:
        assert seen(load(folder)) == right(*PETS)


def test_numbers_as_names_of_a_list(write):
    """The library writes texts; the metadata of a file may have anything."""
    folder = write("train.parquet", PETS, labels=[0, 1] * 3)
    table = pq.read_table(folder / "train.parquet")
    label = '{"names": [7, 8], "_type": "ClassLabel"}'
    features = f'{{"info": {{"features": {{"image": {{"_type": "Image"}}, "label": {label}}}}}}}'
    pq.write_table(table.replace_schema_metadata({"huggingface": features}), folder / "train.parquet")
    assert load(folder).class_names == ("7", "8")


def test_all_damaged_files_are_named(write):
    folder = write("train-0.parquet", PETS)
    for index in range(1, 14):
        (folder / f"train-{index:02}.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"Cannot read 13 parquet files:\n.*train-01\.parquet: ") as refused:
        load(folder)
    assert refused.value.message.endswith("and 3 more")


def test_a_cache_that_cannot_be_written_is_named(write, monkeypatch):
    import datasets

    folder = write("train.parquet", PETS)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", "/proc/none/datasets")
    with pytest.raises(DataError, match="/proc/none/datasets, cannot be written") as refused:
        load(folder)
    assert "HF_HOME" in refused.value.hint
