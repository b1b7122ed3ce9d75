"""Which images are held back from training to be scored, and that no test image is among them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli.small_runs import write_photos
from PIL import Image

from feddtl.config import DataConfig, EvaluationConfig
from feddtl.data import regime
from feddtl.data.federated import FederatedData, load_federated_data
from feddtl.data.own_images import load_own_images
from feddtl.data.table import ImageDataset, ImageTable
from feddtl.errors import ConfigError, DataError

TEST_ROW = 1000  # rows from here on are test images


def unreadable_test_image(row: int) -> Image.Image:
    """A picture of a training image."""
    if row >= TEST_ROW:
        raise AssertionError(f"test image {row} was read")
    return Image.new("RGB", (4, 4), (row % 256, 0, 0))


def made_up(classes: int, domains: int, each: int) -> ImageDataset:
    """`each` training images in each cell of class and domain, and a test image of each class."""
    cells = [(label, domain) for label in range(classes) for domain in range(domains) for _ in range(each)]
    labels, of_domain = (np.array(column, dtype=np.int64) for column in zip(*cells, strict=True))
    train = ImageTable(unreadable_test_image, np.arange(len(labels)), labels, of_domain)
    test_labels = np.arange(classes)
    test = ImageTable(unreadable_test_image, TEST_ROW + test_labels, test_labels, np.zeros_like(test_labels))
    names = tuple(f"class {label}" for label in range(classes))
    return ImageDataset("made-up", train, test, names, tuple(f"domain {domain}" for domain in range(domains)))


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """Four classes, two of them novel, in two domains of 20 images each."""
    monkeypatch.setattr(regime, "load_dataset", lambda *_, **__: made_up(4, 2, 20))
    return DataConfig(regime="full", partition="iid", clients=2)


def rows(data: FederatedData) -> tuple[set[int], set[int], set[int]]:
    return set(data.train.rows.tolist()), set(data.test_base.rows.tolist()), set(data.test_novel.rows.tolist())


def cells(table: ImageTable) -> Counter[tuple[int, int]]:
    return Counter(zip(table.labels.tolist(), table.domains.tolist(), strict=True))


def test_a_share_of_every_class_and_domain_is_scored_instead_of_test_images(source: DataConfig) -> None:
    """A fifth of 20 is 4; novel classes lose as many, of images that nobody trains on."""
    data = load_federated_data(source, 0, held_back=0.2)
    assert data.scored == "held-back"
    assert cells(data.train) == dict.fromkeys(((0, 0), (0, 1), (1, 0), (1, 1)), 16)
    assert cells(data.test_base) == cells(data.test_novel) == dict.fromkeys(((0, 0), (0, 1), (1, 0), (1, 1)), 4)
    train, base, novel = rows(data)
    assert train | base == rows(load_federated_data(source, 0))[0]
    assert not train & base
    assert max(train | base | novel) < TEST_ROW
    for table in (data.train, data.test_base, data.test_novel):
        for index in range(len(table)):
            table.read(index)


def test_every_client_is_scored_on_held_back_images_of_its_own_classes(source: DataConfig) -> None:
    data = load_federated_data(replace(source, partition="non-iid"), 3, held_back=0.2)
    for train, test in zip(data.partition.train, data.partition.test, strict=True):
        assert set(data.train.labels[train].tolist()) == set(data.test_base.labels[test].tolist())
    assert sum(map(len, data.partition.test)) == len(data.test_base)


def test_the_choice_depends_on_the_seed_alone(source: DataConfig) -> None:
    chosen = [rows(load_federated_data(source, seed, held_back=0.2)) for seed in (5, 5, 6)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_few_shot_images_are_held_back_from_the_shots_of_training(source: DataConfig) -> None:
    """16 shots: 13 train and 3 are held back; no image beyond the shots is used."""
    few = replace(source, regime="few-shot", shots=16)
    data, shots = load_federated_data(few, 1, held_back=0.2), load_federated_data(few, 1)
    assert Counter(data.train.labels.tolist()) == {0: 13, 1: 13}
    assert Counter(data.test_base.labels.tolist()) == Counter(data.test_novel.labels.tolist()) == {0: 3, 1: 3}
    assert rows(data)[0] | rows(data)[1] == rows(shots)[0]
    assert not any("Fewer than" in note for note in data.notes)


def test_the_notes_say_what_is_scored(source: DataConfig) -> None:
    first, second = load_federated_data(source, 0, held_back=0.125).notes
    assert first.startswith("Scored on held-back training images, not on test images (evaluation.images): 10 images")
    assert "12.5% of each class and domain, are taken out of training, which has 70 left" in first
    assert second == "Novel classes are scored on 10 of their training images, which nobody trains on."
    assert load_federated_data(source, 0).notes == ()


def test_the_limit_of_scored_images_holds_for_held_back_ones(source: DataConfig) -> None:
    """What is beyond the limit is neither scored nor trained on, so the training does not depend on it."""
    limited = load_federated_data(replace(source, test_images_per_class=1), 0, held_back=0.2)
    assert set(cells(limited.test_base).values()) == {1}
    assert rows(limited)[0] == rows(load_federated_data(source, 0, held_back=0.2))[0]
    assert "8 of 32 held-back training images are scored: at most 1 of each class in each domain" in limited.notes[0]


def test_a_class_with_one_image_is_named_and_one_image_of_each_is_refused(
    source: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made_up(4, 1, 10)
    one_of_class_0 = replace(whole, train=whole.train.select(range(9, 40)))
    monkeypatch.setattr(regime, "load_dataset", lambda *_, **__: one_of_class_0)
    data = load_federated_data(source, 0, held_back=0.2)
    assert Counter(data.test_base.labels.tolist()) == {1: 2}
    assert data.notes[-1] == "No image can be held back of classes with fewer than two: class 0."
    with pytest.raises(DataError, match="every class has a single one") as caught:
        load_federated_data(replace(source, regime="few-shot", shots=1), 0, held_back=0.2)
    assert "data.shots = 2 or more" in caught.value.hint


def test_a_client_holds_back_images_of_its_own(tmp_path: Path) -> None:
    config = DataConfig(source="clients", classes="ibex,lynx", novel_classes="wolf", regime="full")
    path = str(write_photos(tmp_path, classes=("ibex", "lynx", "wolf"), train=10, test=3))
    own = load_own_images(config, path, 0, held_back=0.2)
    assert [Counter(table.labels.tolist()) for table in (own.train, own.test_base, own.test_novel)] == [
        {0: 8, 1: 8},
        {0: 2, 1: 2},
        {0: 2},
    ]
    assert own.notes[0].startswith("Scored on held-back training images, not on test images")


def test_the_share_counts_only_where_images_are_held_back() -> None:
    assert EvaluationConfig().held_back == EvaluationConfig(held_back_share=0.5).held_back == 0
    assert EvaluationConfig(images="held-back").held_back == 0.2


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0])
def test_the_share_has_bounds(share: float) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.held_back_share"):
        EvaluationConfig(held_back_share=share)
