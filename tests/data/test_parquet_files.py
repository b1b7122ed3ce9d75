"""Which parquet files are which split, by their names alone."""

from __future__ import annotations

import pytest

from feddtl.data.parquet_files import parquet_splits
from feddtl.errors import DataError


@pytest.fixture
def folder(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def found(root, **how):
    splits = parquet_splits(root, **how)
    return [[str(file.relative_to(root)) for file in files] for files in (splits.train, splits.test)]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train.parquet", "test.parquet"),
        ("Train.parquet", "TEST.parquet"),
        ("train-00000-of-00001.parquet", "testing-00000-of-00001.parquet"),
        ("data/train-00000-of-00001-0f1e2d.parquet", "data/test-00000-of-00001-0f1e2d.parquet"),
        ("plain_text/train-0.parquet", "plain_text/validation-0.parquet"),
        ("mydata_train.parquet", "mydata_test.parquet"),
        ("pets.training.parquet", "pets.eval.parquet"),
        ("train/0.parquet", "test/0.parquet"),
        ("data/Training/part 0.parquet", "data/dev/part 0.parquet"),
        ("train_2024.PARQUET", "val_2024.PARQUET"),
        ("ｔｒａｉｎ.parquet", "ｔｅｓｔ.parquet"),
    ],
)
def test_words_of_files_and_folders_divide(folder, train, test):
    root = folder(train, test, "README.md")
    assert found(root) == [[train], [test]]
    assert parquet_splits(root).notes == ()


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ("{split: test, path: [b*, x]}", "b.parquet into the split 'test', .* it is a training file"),
        ("{split: unlabelled, path: b.parquet}", "'unlabelled', .* it is a training file"),
        ("{split: train, path: '*.parquet'}", ""),
        ("b.parquet", ""),
        ("[3, {split: 3}, {path: [3]}]", ""),
        ("{", ""),
    ],
)
def test_a_card_of_other_splits_is_refused(folder, files, problem):
    root = folder("a.parquet", "b.parquet")
    (root / "README.md").write_text(f"---\nconfigs:\n- data_files: [{files}]\n---\n", encoding="utf-8")
    if problem:
        with pytest.raises(DataError, match=problem):
            parquet_splits(root)
    else:
        assert found(root) == [["a.parquet", "b.parquet"], []]


def test_a_card_that_divides_as_the_names_do(folder):
    root = folder("data/train-0.parquet", "data/test-0.parquet", "data/extra.parquet")
    files = "".join(f"[{{split: {name}, path: data/{name}*}}]" for name in ("train", "test", "extra"))
    (root / "README.md").write_text(
        f"---\nconfigs:\n- data_files: {files.replace('][', ', ')}\n---\n", encoding="utf-8"
    )
    assert found(root) == [["data/train-0.parquet"], ["data/test-0.parquet"]]


def test_without_such_words_everything_is_for_training(folder):
    assert found(folder("b.parquet", "a.parquet")) == [["a.parquet", "b.parquet"], []]
    assert found(folder("a.parquet") / "a.parquet") == [["."], []], "a file that is given itself"


def test_the_catalogue_prefers_its_own_splits(folder):
    root = folder("train.parquet", "test.parquet", "validation.parquet")
    assert found(root) == [["train.parquet"], ["test.parquet"]]
    assert found(root, test="valid") == [["train.parquet"], ["validation.parquet"]]
    assert found(root, train=("train", "validation")) == [["train.parquet", "validation.parquet"], ["test.parquet"]]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("test.parquet",), "test.parquet but no training file"),
        (("test/0.parquet", "test/1.parquet"), "no training file"),
        (("mydata_val.parquet", "other.parquet"), "no training file"),
        (("train.parquet", "tset.parquet"), "tset.parquet looks like a split"),
        (("pets.parquet", "petstest.parquet"), "petstest.parquet looks like a split"),
        (("pets.parquet", "TestPets.parquet"), "TestPets.parquet looks like a split"),
        (("pets.parquet", "holdout.parquet"), "holdout.parquet looks like a split"),
        (("pets_tr.parquet", "pets_te.parquet"), "pets_te.parquet looks like a split"),
        (("train_test.parquet", "x.parquet"), "'train_test' is that of two splits"),
        (("train/test-0.parquet", "train/1.parquet"), "is that of another split than its name"),
        (("a/train.parquet", "b/test.parquet"), "several subfolders: a, b"),
        (("train.parquet", "old/test.parquet"), "several subfolders: itself, old"),
        (("train-00000-of-00003.parquet", "train-00002-of-00003.parquet"), "train-00001-of-00003.parquet is missing"),
        (("train.parquet", "test-00001-of-00002-9c.parquet"), "1 of the 2 files test-"),
    ],
)
def test_what_is_not_clear_is_refused(folder, names, message):
    with pytest.raises(DataError, match=message) as refused:
        parquet_splits(folder(*names))
    assert refused.value.hint


def test_what_is_not_used_is_noted(folder):
    root = folder(
        "train.parquet", "test.parquet", "dev.parquet", "more.parquet", "a/1.jpg", "meta.csv", "b.pq", ".x.jpg"
    )
    first, second = parquet_splits(root).notes
    assert "are ignored: dev.parquet, more.parquet." in first
    assert "are not used: .csv (1), .jpg (1), .pq (1)." in second


def test_a_link_to_nowhere(folder):
    root = folder("train.parquet")
    (root / "test.parquet").symlink_to("/nowhere/test.parquet")
    with pytest.raises(DataError, match=r"test\.parquet is a link to a file that does not exist"):
        parquet_splits(root)
