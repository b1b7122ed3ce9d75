"""`data.root`: local copies by the data set's name, as the catalogue describes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_images import MakeFolder, MakeParquet, greys, load, per_class, real_data

from feddtl.config import DataConfig
from feddtl.data.catalog import CATALOG
from feddtl.data.federated import load_federated_data
from feddtl.errors import DataError

PETS = ("Abyssinian", "basset_hound")


@pytest.mark.parametrize("folder", ["oxford-pets", "Oxford_Pets", "OxfordPets"])
def test_case_and_punctuation_are_ignored(make_parquet: MakeParquet, tmp_path: Path, folder: str) -> None:
    """The copy has the name and the prompt that the Hub's has, so that only the location differs."""
    make_parquet(f"root/{folder}/train.parquet", [0, 1, 1], names=PETS)
    make_parquet(f"root/{folder}/test.parquet", [1, 0], names=PETS)
    dataset = load("oxford-pets", root=str(tmp_path / "root"))
    assert (dataset.name, dataset.prompt_template) == ("oxford-pets", CATALOG["oxford-pets"].prompt_template)
    assert dataset.class_names == ("Abyssinian", "basset hound")
    assert per_class(dataset) == ([1, 2], [1, 1])
    assert greys(dataset) == [10, 11, 12]


def test_the_name_of_the_catalogue_may_be_spelled_differently(make_parquet: MakeParquet, tmp_path: Path) -> None:
    make_parquet("root/eurosat/train.parquet", [0, 1] * 5, names=["AnnualCrop", "SeaLake"])
    dataset = load("EuroSAT", root=str(tmp_path / "root"))
    assert dataset.name == "eurosat"
    assert dataset.class_names == ("annual crop land", "sea or lake")
    assert dataset.prompt_template == "a centered satellite photo of {class}."


def test_splits_and_columns_are_those_of_the_catalogue(make_parquet: MakeParquet, tmp_path: Path) -> None:
    """Flowers-102 joins training and validation images; CIFAR-100 has coarse labels too, and images in `img`."""
    names = ("rose", "tulip")
    for split, labels in (("train", [0, 1]), ("validation", [0, 0, 1]), ("test", [1, 0, 1])):
        make_parquet(f"root/flowers102/{split}.parquet", labels, names=names)
    flowers = load("flowers102", root=str(tmp_path / "root"))
    assert per_class(flowers) == ([3, 2], [1, 2])
    assert flowers.notes == ()
    make_parquet("root/cifar100/train.parquet", [0, 1], names=names, image_column="img", label_column="fine_label")
    make_parquet("root/cifar100/test.parquet", [1, 1], names=names, image_column="img", label_column="fine_label")
    assert per_class(load("cifar100", root=str(tmp_path / "root"))) == ([1, 1], [0, 2])


def test_no_image_is_trained_on_and_tested_on(make_parquet: MakeParquet, tmp_path: Path) -> None:
    """A copy of Flowers-102 without its test files: 'validation' is for training, though 'valid' begins it."""
    for split in ("train", "validation"):
        make_parquet(f"root/flowers102/{split}.parquet", [0, 1] * 5, names=["rose", "tulip"])
    dataset = load("flowers102", root=str(tmp_path / "root"))
    assert len(dataset.train) + len(dataset.test) == 20, "a fifth of the images is held out instead"
    assert len(dataset.test) == 4


def test_the_labelled_test_split_is_preferred(make_parquet: MakeParquet, tmp_path: Path) -> None:
    """The official test images of Tiny-ImageNet have no labels; the catalogue tests on `valid`."""
    for split, labels in (("train", [0, 1]), ("test", [0]), ("valid", [1, 1, 0])):
        make_parquet(f"root/tiny-imagenet/{split}.parquet", labels, names=["cat", "dog"])
    assert per_class(load("tiny-imagenet", root=str(tmp_path / "root")))[1] == [1, 2]


def test_columns_asked_for_come_first(make_parquet: MakeParquet, tmp_path: Path) -> None:
    make_parquet("root/pacs/train.parquet", [0, 1] * 5, names=["dog", "horse"], label_column="kind")
    dataset = load("pacs", root=str(tmp_path / "root"), label_column="kind")
    assert dataset.class_names == ("dog", "horse")
    with pytest.raises(DataError, match="no column 'species'"):
        load("pacs", root=str(tmp_path / "root"), label_column="species")


def test_folders_of_images_and_names_beyond_the_catalogue(make_folder: MakeFolder, tmp_path: Path) -> None:
    """Classes that the catalogue drops may be missing; a name that it does not have is a folder like any other."""
    files = [f"{name}/{i}.png" for name in ("airplanes", "crab", "Faces_easy") for i in range(5)]
    make_folder(*files, name="root/Caltech101")
    make_folder("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png", name="root/my pets")
    caltech = load("caltech101", root=str(tmp_path / "root"))
    assert caltech.class_names[:2] == ("Faces easy", "airplane")
    assert load("my-pets", root=str(tmp_path / "root")).class_names == ("cat", "dog")


def test_a_copy_without_a_class_that_is_needed_is_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    make_folder("bird/0.png", "zebra/0.png", name="root/domainnet")
    with pytest.raises(DataError, match=r"root/domainnet differ from the catalogue \(missing: \['feathers?'"):
        load("domainnet", root=str(tmp_path / "root"))


def test_generated_shapes_need_no_copy(tmp_path: Path) -> None:
    assert load("shapes", root=str(tmp_path)).name == "shapes"


class TestRefused:
    def test_the_sub_folders_are_listed(self, tmp_path: Path) -> None:
        for name in ("eurosat", "pacs", ".hidden"):
            (tmp_path / name).mkdir()
        with pytest.raises(DataError, match="no sub-folder for the data set 'cifar10'") as caught:
            load("cifar10", root=str(tmp_path))
        assert caught.value.message.endswith("Its sub-folders: eurosat, pacs.")
        assert str(tmp_path / "cifar10") in caught.value.hint

    def test_nothing_is_fetched_instead(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the Hub"))
        with pytest.raises(DataError, match="Its sub-folders: none"):
            load("cifar10", root=str(tmp_path))

    def test_two_matching_sub_folders(self, tmp_path: Path) -> None:
        for name in ("cifar-10", "cifar10"):
            (tmp_path / name).mkdir()
        with pytest.raises(DataError, match="several sub-folders for 'cifar10': cifar-10, cifar10"):
            load("cifar10", root=str(tmp_path))

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"data\.root = .*missing' is not a folder"):
            load("cifar10", root=str(tmp_path / "missing"))

    def test_column_options_for_images(self, make_folder: MakeFolder, tmp_path: Path) -> None:
        make_folder("cat/0.png", "dog/0.png", name="root/pets")
        with pytest.raises(DataError, match="'pets' has no columns"):
            load("pets", root=str(tmp_path / "root"), label_column="kind")


@pytest.mark.parametrize(
    ("source", "classes", "domains"),
    [("cifar10", 10, 1), ("cifar100", 100, 1), ("eurosat", 10, 1), ("pacs", 7, 4), ("office-caltech-10", 10, 4)],
)
def test_real_copies(source: str, classes: int, domains: int) -> None:
    root = real_data("cifar10").parent
    config = DataConfig(source=source, root=str(root), test_images_per_class=2, clients=4, partition="iid")
    data = load_federated_data(config, seed=0)
    assert len(data.base_names) + len(data.novel_names) == classes
    assert len(data.domain_names) == domains
    assert len(data.test_base) == 2 * len(data.base_names) * domains
    assert data.name in CATALOG
    assert data.prompt_template == CATALOG[data.name].prompt_template
