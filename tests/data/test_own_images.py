"""A client's own folder with the class names of an experiment."""

from __future__ import annotations

import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli.small_runs import write_photos

from feddtl.config import DataConfig
from feddtl.data.federated import images_on_clients, load_federated_data
from feddtl.data.own_images import load_own_images, part_of
from feddtl.data.sources import load_dataset
from feddtl.errors import ClientError, DataError

CONFIG = DataConfig(source="clients", classes="red panda, snow_leopard,Ibex", novel_classes="lynx", regime="full")


def photos(root: Path, *classes: str, train: int = 5, test: int = 3) -> str:
    return str(write_photos(root, classes=classes, train=train, test=test))


def test_labels_are_indices_into_the_experiment_s_lists(tmp_path):
    """Folders Ibex, lynx and red_panda, in any case: classes 2 and 0, and novel class 0."""
    own = load_own_images(CONFIG, photos(tmp_path / "a", "IBEX", "lynx", "Red_Panda"), 0)
    assert own.train.labels.tolist() == [2] * 5 + [0] * 5
    assert own.test_base.labels.tolist() == [2] * 3 + [0] * 3
    assert own.test_novel.labels.tolist() == [0] * 3
    assert own.notes == ("5 training images of novel classes are not trained on.",)
    shown = [own.train.reader.files[row].parent.name for row in own.train.rows]
    assert shown == ["IBEX"] * 5 + ["Red_Panda"] * 5


@pytest.mark.parametrize(("asked", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_an_accent_may_be_stored_in_any_unicode_form(tmp_path, asked, stored):
    """A system may store a folder's accents as letters of their own, and so may the file of an experiment."""
    config = replace(CONFIG, classes=unicodedata.normalize(asked, "Käfer,Ibex"), novel_classes="")
    own = load_own_images(config, photos(tmp_path / "a", unicodedata.normalize(stored, "käfer")), 0)
    assert set(own.train.labels) == {0}


def test_a_single_class_is_enough_and_splits_may_differ(tmp_path):
    root = Path(photos(tmp_path / "a", "ibex"))
    shutil.move(write_photos(tmp_path / "b", classes=["lynx"]) / "test" / "lynx", root / "test" / "lynx")
    own = load_own_images(CONFIG, str(root), 0)
    assert (len(own.train), len(own.test_base), len(own.test_novel)) == (5, 3, 3)
    assert set(own.train.labels) == {2}
    assert own.notes == ()


def test_without_a_test_split_a_fifth_is_held_out(tmp_path):
    """Of 10 images of each class 2; the held-out novel ones are scored, the others are not used."""
    photos(tmp_path / "a", "ibex", "lynx", train=10, test=1)
    own = load_own_images(CONFIG, str(tmp_path / "a" / "train"), 0)
    assert (len(own.train), len(own.test_base), len(own.test_novel)) == (8, 2, 2)
    assert any("has no test split: 4 of its 20 images" in note for note in own.notes)
    assert own.notes[-1] == "8 training images of novel classes are not trained on."


def test_shots_are_a_limit_per_class(tmp_path):
    """Classes with fewer images give all they have; another seed chooses others."""
    root = photos(tmp_path / "a", "ibex", "red panda", train=9)
    shutil.rmtree(tmp_path / "a" / "train" / "ibex")
    shutil.copytree(tmp_path / "a" / "test" / "ibex", tmp_path / "a" / "train" / "ibex")
    config = replace(CONFIG, regime="few-shot", shots=4)
    chosen = [load_own_images(config, root, seed).train for seed in (0, 0, 1)]
    assert [np.bincount(table.labels, minlength=3).tolist() for table in chosen] == [[4, 0, 3]] * 3
    assert chosen[0].rows.tolist() == chosen[1].rows.tolist() != chosen[2].rows.tolist()


def test_domains_count_as_one(tmp_path):
    for domain in ("north", "south"):
        write_photos(tmp_path / "a", classes=("ibex",), train=2, test=1, domain=domain)
    own = load_own_images(CONFIG, str(tmp_path / "a"), 0)
    assert (len(own.train), set(own.train.domains)) == (4, {0})
    assert len(load_own_images(replace(CONFIG, domains="south"), str(tmp_path / "a"), 0).train) == 2


def test_an_unknown_class_is_named_with_those_that_are_allowed(tmp_path):
    with pytest.raises(DataError, match="has images of 'wolf', which data") as caught:
        load_own_images(CONFIG, photos(tmp_path / "a", "ibex", "wolf"), 0)
    assert caught.value.hint.endswith("Allowed: 'red panda', 'snow leopard', 'Ibex', 'lynx'.")
    assert "data.novel_classes" in caught.value.hint


def test_no_path_and_no_folder_are_different_faults(tmp_path):
    with pytest.raises(ClientError, match="has no path to its images") as caught:
        load_own_images(CONFIG, "", 0)
    assert "feddtl client --data PATH" in caught.value.hint
    with pytest.raises(DataError, match=r"There is no .*missing"):
        load_own_images(CONFIG, str(tmp_path / "missing"), 0)
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(DataError, match="is a file, but not a parquet file"):
        load_own_images(CONFIG, str(tmp_path / "note.txt"), 0)


def test_novel_images_alone_leave_nothing_to_train_on(tmp_path):
    with pytest.raises(DataError, match="has no training images of a base class") as caught:
        load_own_images(CONFIG, photos(tmp_path / "a", "lynx"), 0)
    assert "'red panda', 'snow leopard', 'Ibex'" in caught.value.hint


def test_parquet_splits_with_different_classes(make_parquet):
    """Training: ibex and snow leopard. Test: lynx and ibex, whose ids in their own list differ."""
    train = make_parquet("own/train-0.parquet", ["ibex", "snow_leopard", "ibex"])
    make_parquet("own/test-0.parquet", ["lynx", "ibex", "lynx", "red panda"])
    own = load_own_images(CONFIG, str(train.parent), 0)
    assert own.train.labels.tolist() == [2, 1, 2]
    assert (own.test_base.labels.tolist(), own.test_novel.labels.tolist()) == ([2, 0], [0, 0])
    alone = load_own_images(CONFIG, str(train), 0)
    assert len(alone.train) + len(alone.test_base) == 3


def test_parts_of_a_divided_data_set(tmp_path):
    """Together the clients have each image once; nobody has a novel one."""
    root = photos(tmp_path / "a", "ant", "bee", "cat", "dog")
    data = load_federated_data(DataConfig(source=root, clients=2, partition="iid"), 0)
    parts = [part_of(data, client) for client in range(2)]
    assert sorted(row for part in parts for row in part.train.rows) == sorted(data.train.rows)
    assert sorted(row for part in parts for row in part.test_base.rows) == sorted(data.test_base.rows)
    assert [len(part.test_novel) for part in parts] == [0, 0]
    with pytest.raises(ClientError, match="This node is client 2; the experiment has 0 to 1"):
        part_of(data, 2)


def test_a_copy_replaces_the_source(tmp_path):
    """The experiment names a path that this machine does not have."""
    root = photos(tmp_path / "a", "ant", "bee")
    elsewhere = DataConfig(source="/somewhere/else", clients=2, partition="iid")
    assert len(load_federated_data(elsewhere, 0, root).train) == 10
    with pytest.raises(DataError, match="There is no folder"):
        load_federated_data(elsewhere, 0)


def test_here_are_names_without_images():
    data = images_on_clients(replace(CONFIG, clients=3))
    assert (data.base_names, data.novel_names) == (("red panda", "snow leopard", "Ibex"), ("lynx",))
    assert (data.on_clients, data.prompt_template) == (True, "a photo of a {class}.")
    assert [len(part) for part in data.partition.train] == [0, 0, 0]
    for load in (load_dataset, lambda config: load_federated_data(config, 0)):
        with pytest.raises(DataError, match="each client has its own images"):
            load(CONFIG)
