"""Data sets of the paper by short name: where they are on the Hub, their columns, prompts and licences.

This module holds everything that is known about a source without downloading it; `sources.load_dataset` reads it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from feddtl.config.protocol import alphanumeric
from feddtl.data.columns import Columns
from feddtl.data.table import DEFAULT_PROMPT, ImageDataset
from feddtl.errors import DataError

USUAL_COLUMNS = Columns("image", "label")


@dataclass(frozen=True)
class CatalogEntry:
    """What is needed to use a Hub data set.

    Attributes:
        name: Short name on the command line.
        hub_id: Data set on the Hugging Face Hub.
        licence: Licence of the images, as its authors or the Hub state it.
        columns: Columns of images, classes and domains.
        train_split: Split of the training images; several are joined by `+`.
        test_split: Split of the test images; "" to hold one out.
        prompt_template: Text with `{class}` in place of the class name.
        blank_pattern: Regular expression of what becomes a space in the class names of the Hub.
        readable_names: Name for a prompt by class name, if spaces alone are not enough.
        keep_classes: Names of the classes to keep, in order; () for all.
        drop_classes: Names of the classes to leave out.
        source_note: Sizes (train / test), and anything special or unknown about the Hub's copy.
    """

    name: str
    hub_id: str
    licence: str
    columns: Columns = USUAL_COLUMNS
    train_split: str = "train"
    test_split: str = "test"
    prompt_template: str = DEFAULT_PROMPT
    blank_pattern: str = "_"
    readable_names: Mapping[str, str] = field(default_factory=dict)
    keep_classes: tuple[str, ...] = ()
    drop_classes: tuple[str, ...] = ()
    source_note: str = ""

    def described(self, dataset: ImageDataset, where: str) -> ImageDataset:
        """The data set with the entry's name, prompt and class names, without the classes to drop.

        Args:
            dataset: The data set as read.
            where: Its name in errors: the Hub id, or a copy, which need not have the classes to drop.

        Raises:
            DataError: The data lacks a class to keep or drop, or has a class with an unknown name.
        """
        names = tuple(map(self._readable_name, dataset.class_names))
        self._check_names(names, where)
        kept = self.keep_classes or tuple(name for name in names if name not in self.drop_classes)
        new_ids = np.array([kept.index(name) if name in kept else -1 for name in names], dtype=np.int64)
        return replace(
            dataset,
            name=self.name,
            train=dataset.train.relabelled(new_ids),
            test=dataset.test.relabelled(new_ids),
            class_names=kept,
            prompt_template=self.prompt_template,
        )

    def _readable_name(self, name: str) -> str:
        spaced = " ".join(re.sub(self.blank_pattern, " ", name).split())
        return self.readable_names.get(spaced, spaced)

    def _check_names(self, found: tuple[str, ...], where: str) -> None:
        """Refuses data that differ from the entry; the Hub's copies are not ours and may change."""
        needed = (*self.keep_classes, *self.drop_classes) if where == self.hub_id else self.keep_classes
        missing = [name for name in needed if name not in found]
        unnamed = [name for name in found if re.fullmatch(r"n\d{8}", name)]
        twice = [name for name in found if found.count(name) > 1]
        if missing or unnamed or twice:
            raise DataError(
                f"The classes of {where} differ from the catalogue "
                f"(missing: {missing[:3]}, without a name: {unnamed[:3]}, twice: {twice[:2]}).",
                "The catalogue describes a different copy. To use this one, pass its folder with --data.source FOLDER.",
            )


# The ten classes that federated work on DomainNet uses (FedBN, arXiv:2102.07623), as the paper lists them.
DOMAINNET_TEN = (
    "bird",
    "feather",
    "headphones",
    "ice cream",
    "teapot",
    "tiger",
    "whale",
    "windmill",
    "wine glass",
    "zebra",
)
# Shortened from the synonym lists of the data set's `words.txt`.
_ROWS = Path(__file__).with_name("tiny_imagenet.tsv").read_text(encoding="utf-8").splitlines()
TINY_IMAGENET = dict(row.split("\t") for row in _ROWS if not row.startswith("#"))

# Class names of EuroSAT and Caltech-101 follow CoOp (arXiv:2109.01134).
_ENTRIES = (
    CatalogEntry(
        name="cifar10",
        hub_id="uoft-cs/cifar10",
        licence="not stated; research use",
        columns=Columns("img", "label"),
        source_note="50,000 / 10,000 images, official split.",
    ),
    CatalogEntry(
        name="cifar100",
        hub_id="uoft-cs/cifar100",
        licence="not stated; research use",
        columns=Columns("img", "fine_label"),
        source_note="50,000 / 10,000 images, official split, the 100 fine classes.",
    ),
    CatalogEntry(
        name="eurosat",
        hub_id="timm/eurosat-rgb",
        licence="MIT",
        prompt_template="a centered satellite photo of {class}.",
        readable_names={
            "AnnualCrop": "annual crop land",
            "Forest": "forest",
            "HerbaceousVegetation": "herbaceous vegetation land",
            "Highway": "highway or road",
            "Industrial": "industrial buildings",
            "Pasture": "pasture land",
            "PermanentCrop": "permanent crop land",
            "Residential": "residential buildings",
            "River": "river",
            "SeaLake": "sea or lake",
        },
        source_note="16,200 / 5,400 images (5,400 for validation are not used). EuroSAT has no official split; "
        "CoOp uses a different one.",
    ),
    CatalogEntry(
        name="tiny-imagenet",
        hub_id="zh-plus/tiny-imagenet",
        licence="not stated; ImageNet terms: non-commercial research",
        test_split="valid",
        readable_names=TINY_IMAGENET,
        source_note="100,000 / 10,000 images; the official test images have no labels, so `valid` is the test "
        "split. Class order is that of the Hub's WordNet ids, 18 of which differ from the official ones.",
    ),
    CatalogEntry(
        name="oxford-pets",
        hub_id="timm/oxford-iiit-pet",
        licence="CC BY-SA 4.0",
        prompt_template="a photo of a {class}, a type of pet.",
        source_note="3,680 / 3,669 images, official split.",
    ),
    CatalogEntry(
        name="flowers102",
        hub_id="dpdl-benchmark/oxford_flowers102",
        licence="not stated; research use",
        train_split="train+validation",
        prompt_template="a photo of a {class}, a type of flower.",
        source_note="2,040 / 6,149 images. The official training split has 10 images per class, too few for 16 "
        "shots, so validation is joined to it: 20 per class. CoOp's split has more.",
    ),
    CatalogEntry(
        name="caltech101",
        hub_id="flwrlabs/caltech101",
        licence="CC BY 4.0",
        test_split="",
        readable_names={
            "airplanes": "airplane",
            "faces": "face",
            "leopards": "leopard",
            "motorbikes": "motorbike",
            "water lilly": "water lily",
        },
        drop_classes=("faces easy",),
        source_note="8,677 images in one split, without the background class. As in CoOp, 'faces easy' is left "
        "out because it repeats 'faces': 100 classes remain.",
    ),
    CatalogEntry(
        name="caltech256",
        hub_id="ilee0022/Caltech-256",
        licence="CC BY 4.0",
        columns=Columns("image", "text"),
        blank_pattern=r"^\d+\.|-101$|[-_]",
        readable_names={"t shirt": "t-shirt", "yo yo": "yo-yo", "tower pisa": "leaning tower of Pisa"},
        drop_classes=("clutter",),
        source_note="24,791 / 3,061 images (2,755 for validation are not used), without 'clutter'. Class order is "
        "alphabetical; the exact spelling of the column 'text' could not be verified.",
    ),
    CatalogEntry(
        name="food101",
        hub_id="ethz/food101",
        licence="not stated; scientific fair use",
        test_split="validation",
        prompt_template="a photo of {class}, a type of food.",
        source_note="75,750 / 25,250 images, official split under the name `validation`.",
    ),
    CatalogEntry(
        name="domainnet",
        hub_id="wltjr1007/DomainNet",
        licence="not stated; fair use, non-commercial research",
        columns=Columns("image", "label", "domain"),
        keep_classes=DOMAINNET_TEN,
        source_note="409,832 / 176,743 images of 345 classes, about 18 GB to download for the ten classes kept.",
    ),
    CatalogEntry(
        name="officecaltech10",
        hub_id="",
        licence="not stated; research use",
        columns=Columns("image", "label", "domain"),
        test_split="",
        source_note="No copy on the Hub is known. The images are at github.com/pykale/data (image_data/office).",
    ),
    CatalogEntry(
        name="pacs",
        hub_id="flwrlabs/pacs",
        licence="not stated; research use",
        columns=Columns("image", "label", "domain"),
        test_split="",
        source_note="9,991 images in one split; the official train / crossval lists are not on the Hub.",
    ),
)

CATALOG: dict[str, CatalogEntry] = {entry.name: entry for entry in _ENTRIES}


def find_entry(name: str) -> CatalogEntry | None:
    """The entry for a name, ignoring case and punctuation; None if there is none."""
    return next((entry for entry in CATALOG.values() if alphanumeric(entry.name) == alphanumeric(name)), None)
