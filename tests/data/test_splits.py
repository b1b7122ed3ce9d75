from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_images import picture

from feddtl.config import DataConfig
from feddtl.data.federated import load_federated_data
from feddtl.data.splits import (
    base_novel_classes,
    few_shot,
    held_out_split,
    short_classes_note,
    with_fewer_test_images,
    with_test_split,
)
from feddtl.data.table import ImageDataset, ImageTable, Indices
from feddtl.errors import ConfigError, DataError

label_lists = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=80)


def ids(values: list[int]) -> Indices:
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize(("classes", "base"), [(2, 1), (7, 4), (10, 5), (101, 51)])
def test_base_is_the_first_half_rounded_up(classes: int, base: int) -> None:
    assert base_novel_classes(classes) == (range(base), range(base, classes))


def test_one_class_cannot_be_divided() -> None:
    with pytest.raises(DataError, match="1 class"):
        base_novel_classes(1)


@given(label_lists, st.integers(1, 6), st.integers(0, 3))
def test_few_shot_takes_at_most_so_many_of_each_class(cells: list[tuple[int, int]], shots: int, seed: int) -> None:
    labels = ids([label for label, _ in cells])
    chosen = few_shot(labels, shots, seed)
    assert (np.diff(chosen) > 0).all()
    for class_id in range(6):
        assert (labels[chosen] == class_id).sum() == min(shots, (labels == class_id).sum())


def test_few_shot_of_a_class_does_not_depend_on_the_others() -> None:
    labels = np.repeat(np.arange(3), 40)
    alone = few_shot(np.where(labels == 1, 1, 0)[40:80], 5, seed=7) + 40
    together = few_shot(labels, 5, seed=7)
    np.testing.assert_array_equal(together[labels[together] == 1], alone)


def test_few_shot_depends_on_the_seed_only() -> None:
    labels = np.repeat(np.arange(4), 50)
    np.testing.assert_array_equal(few_shot(labels, 8, 1), few_shot(labels, 8, 1))
    assert not np.array_equal(few_shot(labels, 8, 1), few_shot(labels, 8, 2))


def test_short_classes_are_reported_with_their_count() -> None:
    note = short_classes_note(ids([0, 0, 2, 2, 2]), 3, ("cat", "dog", "fox"))
    assert note == "Fewer than 3 training images, so all of them are used: cat (2), dog (0)."
    assert short_classes_note(ids([0, 1]), 1, ("cat", "dog")) == ""
    assert short_classes_note(ids([0]), 1, tuple("abcdefghijklmn")).endswith("j (0), k (0) and 3 more.")


@given(label_lists, st.floats(0.05, 0.95), st.integers(0, 3))
def test_held_out_split_is_a_division_that_leaves_each_class_on_both_sides(
    cells: list[tuple[int, int]], share: float, seed: int
) -> None:
    labels, domains = ids([c for c, _ in cells]), ids([d for _, d in cells])
    train, test = held_out_split(labels, domains, share, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(len(labels)))
    for class_id in np.unique(labels):
        size = (labels == class_id).sum()
        assert (labels[train] == class_id).any()
        assert (labels[test] == class_id).any() == (size >= 2)


def test_held_out_split_takes_the_share_of_every_domain() -> None:
    labels, domains = np.repeat(np.arange(2), 100), np.tile(np.repeat(np.arange(2), 50), 2)
    _, test = held_out_split(labels, domains, 0.2, seed=0)
    cells, counts = np.unique(np.stack([labels[test], domains[test]]), axis=1, return_counts=True)
    assert cells.shape[1] == 4
    assert counts.tolist() == [10, 10, 10, 10]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_held_out_share_must_lie_between_0_and_1(share: float) -> None:
    with pytest.raises(ConfigError, match="test share"):
        held_out_split(ids([0, 0]), ids([0, 0]), share)


def test_a_data_set_with_a_test_split_is_left_alone() -> None:
    table = ImageTable(lambda row: None, np.arange(4), ids([0, 0, 1, 1]), ids([0] * 4))  # type: ignore[arg-type, return-value]
    whole = ImageDataset("pets", table, table.select([0]), ("cat", "dog"))
    assert with_test_split(whole, 0) is whole
    cut = with_test_split(ImageDataset("pets", table, table.select([]), ("cat", "dog")), 0)
    assert len(cut.train) == len(cut.test) == 2
    assert "no test split" in cut.notes[0]


class TestFewerTestImages:
    def data(self) -> ImageDataset:
        """Three classes in two domains, 5 test images in each of the six cells but for one, which has 1."""
        labels = np.repeat(np.arange(3), 10)[:-4]
        domains = np.tile(np.repeat([0, 1], 5), 3)[:-4]
        rows = np.arange(len(labels))
        table = ImageTable(lambda row: picture(row), rows, labels, domains)
        return ImageDataset("set", table, table, ("a", "b", "c"), ("photo", "sketch"), notes=("an earlier note",))

    def test_so_many_of_each_class_in_each_domain(self) -> None:
        """2 of each cell, and the one image of the cell that has no more: 5 · 2 + 1 of 26."""
        fewer = with_fewer_test_images(self.data(), 2, seed=0)
        cells = np.zeros((3, 2), int)
        np.add.at(cells, (fewer.test.labels, fewer.test.domains), 1)
        assert cells.tolist() == [[2, 2], [2, 2], [2, 1]]
        assert len(set(fewer.test.rows)) == 11
        assert len(fewer.train) == 26
        assert fewer.notes[0] == "an earlier note"
        assert fewer.notes[1].startswith("11 of 26 test images are scored: at most 2 of each class in each domain")

    def test_labels_stay_with_their_images(self) -> None:
        whole, fewer = self.data().test, with_fewer_test_images(self.data(), 2, seed=0).test
        assert fewer.labels.tolist() == whole.labels[fewer.rows].tolist()
        assert fewer.domains.tolist() == whole.domains[fewer.rows].tolist()

    @pytest.mark.parametrize("most", [0, 5, 100])
    def test_all_of_them(self, most: int) -> None:
        data = self.data()
        assert with_fewer_test_images(data, most, seed=0) is data

    def test_a_cell_does_not_depend_on_the_others(self) -> None:
        data = self.data()
        alone = replace(data, test=data.test.select(np.flatnonzero(data.test.labels == 1)))
        chosen = with_fewer_test_images(data, 2, seed=0).test
        assert with_fewer_test_images(alone, 2, seed=0).test.rows.tolist() == chosen.rows[chosen.labels == 1].tolist()

    def test_the_data_set_s_seed_decides_and_not_the_run_s(self) -> None:
        config = DataConfig(test_images_per_class=3)
        first, second = (load_federated_data(config, seed) for seed in (0, 1))
        assert first.test_base.rows.tolist() == second.test_base.rows.tolist()
        assert first.train.rows.tolist() != second.train.rows.tolist()
        assert len(first.test_base) == 3 * 32 * 4
        drawn = {tuple(with_fewer_test_images(self.data(), 2, seed).test.rows) for seed in range(4)}
        assert len(drawn) > 1
