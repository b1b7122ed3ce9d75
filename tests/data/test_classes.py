"""Which classes are trained and which are novel, from whatever source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.small_runs import write_photos

from feddtl.config import DataConfig
from feddtl.config.class_lists import read_class_names
from feddtl.config.protocol import CATALOGUE
from feddtl.data.catalog import CATALOG
from feddtl.data.classes import choose_classes
from feddtl.data.federated import load_federated_data
from feddtl.errors import ConfigError, DataError

NAMES = ("ant", "Red panda", "cat", "dog", "elk", "fox")


def chosen(**settings: Any) -> tuple[str, str]:
    """Initials of the base and of the novel classes."""
    found = choose_classes(NAMES, DataConfig(source="photos", **settings))
    base, novel = ("".join(name[0] for name in names) for names in (found.base, found.novel))
    return base, novel


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("aRcdef", "")),
        ({"class_split": "none"}, ("aRcdef", "")),
        ({"class_split": "half"}, ("aRc", "def")),
        ({"classes": "fox, red_panda"}, ("fR", "")),
        ({"classes": "fox, red_panda", "novel_classes": "dog,ANT"}, ("fR", "da")),
        ({"classes": "fox, red_panda", "novel_classes": "others"}, ("fR", "acde")),
        ({"novel_classes": "cat"}, ("aRdef", "c")),
    ],
)
def test_choices(settings: dict[str, str], expected: tuple[str, str]) -> None:
    """Listed classes are in the order of the list, others in that of the data set."""
    assert chosen(**settings) == expected


def test_a_share_is_drawn_with_its_own_seed() -> None:
    """A third of six; each class is novel for some seed, and none for all."""
    drawn = [chosen(class_split="share", novel_share=1 / 3, class_seed=seed)[1] for seed in range(20)]
    assert {len(novel) for novel in drawn} == {2}
    assert {name for novel in drawn for name in novel} == set("aRcdef")
    assert chosen(class_split="share", novel_share=1 / 3, class_seed=3)[1] == drawn[3]
    assert chosen(class_split="share", novel_share=0.01)[1] != ""


@pytest.mark.parametrize(
    ("source", "root", "expected"),
    [
        ("shapes", "", "half"),
        ("cifar10", "", "half"),
        ("CIFAR-10", "/copies", "half"),
        ("./cifar10", "", "none"),
        ("photos", "/copies", "none"),
        ("owner/name", "", "none"),
    ],
)
def test_the_protocol_is_the_default_of_its_own_data_sets(source: str, root: str, expected: str) -> None:
    assert DataConfig(source=source, root=root).split == expected


def test_the_names_of_the_catalogue_are_known_without_it() -> None:
    assert tuple(CATALOG) == CATALOGUE


@pytest.mark.parametrize(
    ("settings", "needles"),
    [
        ({"classes": "ant,caat,dog"}, ("photos has no class 'caat', which data.classes", "Did you mean 'cat'?")),
        ({"classes": "ant,cat", "novel_classes": "zzz"}, ("data.novel_classes", "Its classes: ant, Red panda")),
        ({"novel_classes": "ant,red panda,cat,dog,elk"}, ("1 of the 6 classes of photos would be trained",)),
        ({"novel_classes": "ant,red panda,cat,dog,elk,fox"}, ("No of the 6 classes",)),
        ({"class_split": "share", "novel_share": 0.9}, ("data.novel_share = 0.9", "leaves 1 to train on")),
    ],
)
def test_refusals(settings: dict[str, Any], needles: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as caught:
        chosen(**settings)
    for needle in needles:
        assert needle in str(caught.value)


def test_labels_and_images_follow_the_lists(tmp_path: Path) -> None:
    """Five training and three test images of each class; the classes in no list take no part, and a note says so."""
    config = DataConfig(
        source=str(write_photos(tmp_path / "photos")),
        classes="elk,ant",
        novel_classes="bee",
        clients=2,
        partition="iid",
    )
    data = load_federated_data(config, 0)
    assert (data.base_names, data.novel_names) == (("elk", "ant"), ("bee",))
    folders = [data.train.reader.files[row].parent.name for row in data.train.rows]  # type: ignore[attr-defined]
    assert folders == [data.base_names[label] for label in data.train.labels]
    assert [np.bincount(t.labels).tolist() for t in (data.train, data.test_base, data.test_novel)] == [
        [5, 5],
        [3, 3],
        [3],
    ]
    assert any("3 classes of photos take no part" in note and "cat, dog, fox" in note for note in data.notes)
    assert "5 training images of novel classes are not trained on." in data.notes


def test_the_default_of_own_images_says_how_to_hold_classes_out(tmp_path: Path) -> None:
    source = str(write_photos(tmp_path / "photos"))
    for split, count in (("auto", 1), ("none", 0)):
        data = load_federated_data(DataConfig(source=source, class_split=split), 0)  # type: ignore[arg-type]
        assert (len(data.base_names), data.novel_names, len(data.test_novel)) == (6, (), 0)
        assert sum("To hold classes out" in note for note in data.notes) == count


def test_files_of_names(tmp_path: Path) -> None:
    """A byte-order mark, blank lines and line ends of Windows are no names; a comma may be part of one."""
    file = tmp_path / "names.txt"
    file.write_bytes("\ufeffant\r\n\r\n tank, suit \r\nred_panda".encode())
    config = DataConfig(classes=f"@{file}", novel_classes="bee").with_files_read()
    assert config.class_lists == (("ant", "tank, suit", "red panda"), ("bee",))
    with pytest.raises(ConfigError, match="was not read"):
        _ = DataConfig(classes=f"@{file}").class_lists


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "there is no file"), (b"\xff\xfe", "cannot read"), (b" \n", "is empty")]
)
def test_unusable_files_of_names(tmp_path: Path, content: bytes | None, problem: str) -> None:
    file = tmp_path / "names.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=problem) as caught:
        read_class_names(f"@{file}", "data.classes")
    assert caught.value.message.startswith("data.classes = ")
    assert caught.value.hint


def test_a_file_of_names_in_an_unknown_home_folder() -> None:
    with pytest.raises(ConfigError, match=r"cannot read ~nobody-here/names\.txt: .* home directory"):
        read_class_names("@~nobody-here/names.txt", "data.classes")
