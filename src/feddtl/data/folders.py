"""Folders of images: root/class/*.jpg or root/domain/class/*.jpg, also below root/train and root/test."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from feddtl.config.names import readable
from feddtl.data.decode import EncodedImage
from feddtl.data.file_tree import ImageFolder, lines_of, read_tree
from feddtl.data.image_files import IMAGE_SUFFIXES, visible
from feddtl.data.split_folders import (
    LAYOUT_HINT,
    OR_SITES_HINT,
    SPLIT_HINT,
    SplitFolders,
    check_cells,
    check_no_sites,
    split_folders,
)
from feddtl.data.split_names import is_bare_split
from feddtl.data.table import ONE_DOMAIN, ImageDataset, ImageTable
from feddtl.errors import DataError
from feddtl.notes import Warned
from feddtl.units import counted, first_few

MOST_NAMES = 5
READ_AS_DOMAINS = "The folders are read as DOMAIN/CLASS"
Cells = Mapping[tuple[str, str], ImageFolder]


@dataclass(frozen=True)
class FolderReader:
    """Images by their position in a list of files."""

    files: tuple[Path, ...]

    def __call__(self, row: int) -> EncodedImage:
        """The image of one row."""
        return EncodedImage(self.files[row], str(self.files[row]))


@dataclass(frozen=True)
class _Split:
    """Class folders of one split by (domain, class) name; the domain is '' if there are none."""

    root: Path
    cells: Cells

    @property
    def domains(self) -> set[str]:
        return {domain for domain, _ in self.cells}

    @property
    def classes(self) -> set[str]:
        return {class_folder for _, class_folder in self.cells}


def load_folder(root: Path, *, partial: bool = False) -> ImageDataset:
    """Data set of an image folder; its test table is empty if the folder has no test split.

    Classes and domains are in the alphabetical order of their folders. Class names are folder names with
    underscores replaced by spaces; domain names are folder names, both in Unicode's composed form. Hidden files and
    folders are ignored; other files are noted.

    Args:
        root: The folder.
        partial: Whether it is one client's part of a data set, in which one or both splits may lack classes.

    Raises:
        DataError: No image, images that would be left out, an empty class folder, mixed layouts, names that look like
            splits but are not taken for such, or splits with different classes.
    """
    tree, left = read_tree(root)
    left.check(root)
    check_no_sites(tree, partial=partial)
    splits = split_folders(tree)
    fewest = 1 if partial else 2
    train = _scan(splits.train, fewest, explicit=splits.explicit)
    test = _scan(splits.test, fewest, explicit=True) if splits.test else _Split(root, {})
    if splits.test and ("" in train.domains) != ("" in test.domains):
        raise DataError(f"Only one of {train.root} and {test.root} has domain folders.", LAYOUT_HINT)
    if splits.test and not partial:
        check_same_classes(sorted(train.classes), sorted(test.classes), str(train.root), str(test.root))
    classes = sorted(train.classes | test.classes)
    domains = sorted(train.domains | test.domains)
    return ImageDataset(
        name=root.resolve().name,
        train=_table(train, classes, domains),
        test=_table(test, classes, domains),
        class_names=tuple(map(readable, classes)),
        domain_names=tuple(domains) if domains != [""] else ONE_DOMAIN,
        notes=tuple(filter(None, (_doubtful_domains(train), *_unused(tree, splits), left.note(root)))),
    )


def _doubtful_domains(split: _Split) -> str:
    """A note if the folders in the place of domains may be the classes: they share none, or all classes are numbers."""
    domains, classes = sorted(split.domains), sorted(split.classes)
    shared = len(split.cells) > len(classes)
    numbers = all(re.fullmatch(r"[\d\W_]+", name) for name in classes)
    if len(domains) < 2 or (shared and not numbers):
        return ""
    return Warned(
        f"{READ_AS_DOMAINS}: domains {first_few(domains, MOST_NAMES)}; classes {first_few(classes, MOST_NAMES)}. If "
        f"{domains[0]} is a class, move its images up into its folder. {OR_SITES_HINT}"
    )


def _unused(root: ImageFolder, splits: SplitFolders) -> list[str]:
    """Notes about folders next to train and test, and about images outside every class folder."""
    beside = [folder.name for folder in splits.unused]
    notes = [f"Folders of {root.path} other than train and test are ignored: {', '.join(beside)}."] if beside else []
    for folder in (root, *((splits.train,) if splits.explicit else ()), *((splits.test,) if splits.test else ())):
        if folder.images:
            notes.append(
                Warned(f"Images directly in {folder.path} have no class and are ignored: {len(folder.images)}.")
            )
    return notes


def _scan(root: ImageFolder, fewest: int, *, explicit: bool) -> _Split:
    """Finds the class folders of one split; the depth of the images distinguishes them from domain folders.

    Args:
        root: Folder of the split, or of everything.
        fewest: Least number of classes.
        explicit: Whether the folder is that of a split, by its name.
    """
    class_folders = [folder for folder in root.folders if folder.images]
    domain_folders = [folder for folder in root.folders if any(below.images for below in folder.folders)]
    mixed = next((folder for folder in domain_folders if folder not in class_folders), None)
    if class_folders and mixed:
        raise DataError(
            f"{class_folders[0].path} contains images directly, but {mixed.path} contains folders of images.",
            LAYOUT_HINT,
        )
    cells = [(folder, below) for folder in root.folders for below in folder.folders]
    if class_folders or not domain_folders:
        cells = [(root, folder) for folder in root.folders]
    _check_depth(root, [folder for _, folder in cells], domains=not class_folders)
    if not class_folders and not domain_folders:
        directly = f" It directly contains {len(root.images)} images, whose class is unknown." if root.images else ""
        raise DataError(f"The class folders of {root.path} contain no images.{directly}", LAYOUT_HINT)
    for folder in root.folders if not class_folders else ():
        if folder not in domain_folders:
            raise DataError(
                f"The domain folder {folder.path} contains no class folder with images.",
                "Add its images as DOMAIN/CLASS/*.jpg, or remove the folder.",
            )
    by_name = {("" if above is root else above.name, folder.name): folder for above, folder in cells}
    check_cells(root, by_name, explicit=explicit)
    _check_alike(list(root.folders), [folder for _, folder in cells], len(by_name))
    return _without_empty(root, by_name, fewest)


def _check_depth(root: ImageFolder, class_folders: list[ImageFolder], *, domains: bool) -> None:
    """Refuses images that no class folder contains directly, because they would be left out."""
    deeper = [str(file) for folder in class_folders for file in folder.below()]
    if deeper:
        inside = any(is_bare_split(below.name) for folder in class_folders for below in (folder, *folder.folders))
        others = f" {OR_SITES_HINT}" if domains else ""
        others += f" Or pass {root.folders[0].path}." if len(root.folders) == 1 else ""
        raise DataError(
            f"{root.path} has {counted(len(deeper), 'image')} deeper than its class folders:{lines_of(deeper)}",
            f"Move them into the class folders. {SPLIT_HINT if inside else LAYOUT_HINT}{others}",
        )


def _check_alike(domains: list[ImageFolder], classes: list[ImageFolder], distinct: int) -> None:
    """Refuses folders whose names differ in Unicode form alone: they look the same and would be one class."""
    if distinct == len(classes):
        return
    for folders in (domains, classes):
        seen: dict[tuple[Path, str], ImageFolder] = {}
        for folder in folders:
            other = seen.setdefault((folder.path.parent, folder.name), folder)
            if other is not folder:
                raise DataError(
                    f"Two folders in {folder.path.parent} have the same name '{folder.name}' in two Unicode forms: "
                    f"{other.path.name!a} and {folder.path.name!a}.",
                    "Rename or merge them.",
                )


def _without_empty(root: ImageFolder, cells: Cells, fewest: int) -> _Split:
    """Drops empty (domain, class) folders; refuses a class without images, or fewer than two classes."""
    kept = _Split(root.path, {cell: found for cell, found in cells.items() if found.images})
    empty = sorted({class_folder for _, class_folder in cells} - kept.classes)
    if empty:
        raise DataError(
            f"The class folder '{empty[0]}' in {root.path} contains no images.",
            f"Add images ({', '.join(sorted(IMAGE_SUFFIXES))}), or remove the folder.",
        )
    if len(kept.classes) < fewest:
        raise DataError(f"{root.path} has a single class, '{next(iter(kept.classes))}'.", LAYOUT_HINT)
    return kept


def check_same_classes(train: list[str], test: list[str], train_name: str, test_name: str) -> None:
    """Raises DataError naming the first classes in which two sorted lists differ."""
    if train == test:
        return
    missing, extra = sorted(set(train) - set(test)), sorted(set(test) - set(train))
    parts = [f"missing in {test_name}: {', '.join(missing[:3])}"] if missing else []
    parts += [f"missing in {train_name}: {', '.join(extra[:3])}"] if extra else []
    raise DataError(
        f"Training and test split have different classes ({'; '.join(parts)}).",
        "Give both splits the same classes under the same names.",
    )


def _table(split: _Split, classes: list[str], domains: list[str]) -> ImageTable:
    cells = sorted(split.cells.items(), key=lambda cell: cell[0])
    sizes = np.array([len(folder.images) for _, folder in cells], dtype=np.int64)
    labels = np.array([classes.index(name) for (_, name), _ in cells], dtype=np.int64)
    domain_ids = np.array([domains.index(domain) for (domain, _), _ in cells], dtype=np.int64)
    return ImageTable(
        reader=FolderReader(tuple(file for _, folder in cells for file in folder.images)),
        rows=np.arange(sizes.sum(), dtype=np.int64),
        labels=np.repeat(labels, sizes),
        domains=np.repeat(domain_ids, sizes),
    )


def subfolders(folder: Path) -> list[Path]:
    """Sub-folders in alphabetical order, without hidden ones."""
    return [entry for entry in visible(folder) if entry.is_dir()]
