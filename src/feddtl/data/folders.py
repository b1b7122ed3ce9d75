"""Folders of images: root/class/*.jpg or root/domain/class/*.jpg, also below root/train and root/test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from feddtl.data.decode import EncodedImage
from feddtl.data.image_files import IMAGE_SUFFIXES
from feddtl.data.table import ONE_DOMAIN, ImageDataset, ImageTable, readable
from feddtl.errors import DataError

TEST_FOLDERS = ("test", "val", "valid", "validation")
LAYOUT_HINT = "Put the images into one folder per class, ROOT/CLASS/*.jpg, or into ROOT/DOMAIN/CLASS/*.jpg."


@dataclass(frozen=True)
class FolderReader:
    """Images by their position in a list of files."""

    files: tuple[Path, ...]

    def __call__(self, row: int) -> EncodedImage:
        """The image of one row."""
        return EncodedImage(self.files[row], str(self.files[row]))


@dataclass(frozen=True)
class _Split:
    """Image files of one split by (domain, class) folder name; the domain is '' if there are none."""

    root: Path
    files: dict[tuple[str, str], list[Path]]

    @property
    def domains(self) -> set[str]:
        return {domain for domain, _ in self.files}

    @property
    def classes(self) -> set[str]:
        return {class_folder for _, class_folder in self.files}


def load_folder(root: Path, *, partial: bool = False) -> ImageDataset:
    """Data set of an image folder; its test table is empty if the folder has no test split.

    Classes and domains are in the alphabetical order of their folders. Class names are folder names with
    underscores replaced by spaces; domain names are folder names. Hidden files and folders are ignored.

    Args:
        root: The folder.
        partial: Whether it is one client's part of a data set, in which one or both splits may lack classes.

    Raises:
        DataError: No image, an empty class folder, mixed layouts, or splits with different classes.
    """
    train_root, test_root = _split_roots(root)
    fewest = 1 if partial else 2
    train = _scan(train_root, fewest)
    test = _scan(test_root, fewest) if test_root else _Split(root, {})
    if test_root and ("" in train.domains) != ("" in test.domains):
        raise DataError(f"Only one of {train.root} and {test.root} has domain folders.", LAYOUT_HINT)
    if test_root and not partial:
        check_same_classes(sorted(train.classes), sorted(test.classes), str(train.root), str(test.root))
    classes = sorted(train.classes | test.classes)
    domains = sorted(train.domains | test.domains)
    return ImageDataset(
        name=root.resolve().name,
        train=_table(train, classes, domains),
        test=_table(test, classes, domains),
        class_names=tuple(map(readable, classes)),
        domain_names=tuple(domains) if domains != [""] else ONE_DOMAIN,
        notes=_unused(root, train_root, test_root),
    )


def _split_roots(root: Path) -> tuple[Path, Path | None]:
    """Folders of the training and test images; a folder that directly contains images is a class, not a split."""
    folders = {folder.name.casefold(): folder for folder in subfolders(root) if not _images(folder)}
    tests = [folders[name] for name in TEST_FOLDERS if name in folders]
    if "train" in folders:
        return folders["train"], tests[0] if tests else None
    if tests and len(tests) == len(subfolders(root)):
        raise DataError(
            f"{root} has a folder '{tests[0].name}' but no folder 'train'.",
            "Add the training images as 'train', or pass one of the split folders directly.",
        )
    return root, None


def _unused(root: Path, train: Path, test: Path | None) -> tuple[str, ...]:
    """Notes about folders next to train and test, and about images outside every class folder."""
    beside = [folder.name for folder in subfolders(root) if train != root and folder not in (train, test)]
    notes = [f"Folders of {root} other than train and test are ignored: {', '.join(beside)}."] if beside else []
    for folder in dict.fromkeys((root, train, test or train)):
        if stray := len(_images(folder)):
            notes.append(f"Images directly in {folder} have no class and are ignored: {stray}.")
    return tuple(notes)


def _scan(root: Path, fewest: int) -> _Split:
    """Finds the image files of one split; the depth of the images distinguishes class folders from domain folders."""
    folders = subfolders(root)
    images = {folder: _images(folder) for folder in folders}
    class_folders = [folder for folder in folders if images[folder]]
    domain_folders = [folder for folder in folders if any(map(_images, subfolders(folder)))]
    if class_folders and domain_folders:
        raise DataError(
            f"{class_folders[0]} contains images directly, but {domain_folders[0]} contains folders of images.",
            LAYOUT_HINT,
        )
    if not class_folders and not domain_folders:
        stray = len(_images(root))
        directly = f" It directly contains {stray} images, whose class is unknown." if stray else ""
        raise DataError(f"The class folders of {root} contain no images.{directly}", LAYOUT_HINT)
    if class_folders:
        return _without_empty(root, {("", folder.name): images[folder] for folder in folders}, fewest)
    for folder in folders:
        if folder not in domain_folders:
            raise DataError(
                f"The domain folder {folder} contains no class folder with images.",
                "Add its images as DOMAIN/CLASS/*.jpg, or remove the folder.",
            )
    files = {(domain.name, folder.name): _images(folder) for domain in folders for folder in subfolders(domain)}
    return _without_empty(root, files, fewest)


def _without_empty(root: Path, files: dict[tuple[str, str], list[Path]], fewest: int) -> _Split:
    """Drops empty (domain, class) folders; refuses a class without images, or fewer than two classes."""
    kept = _Split(root, {cell: found for cell, found in files.items() if found})
    empty = sorted({class_folder for _, class_folder in files} - kept.classes)
    if empty:
        raise DataError(
            f"The class folder '{empty[0]}' in {root} contains no images.",
            f"Add images ({', '.join(sorted(IMAGE_SUFFIXES))}), or remove the folder.",
        )
    if len(kept.classes) < fewest:
        raise DataError(f"{root} has a single class, '{next(iter(kept.classes))}'.", LAYOUT_HINT)
    return kept


def check_same_classes(train: list[str], test: list[str], train_name: str, test_name: str) -> None:
    """Raises DataError naming the first classes in which two splits differ; orders must agree too."""
    if train == test:
        return
    missing, extra = sorted(set(train) - set(test)), sorted(set(test) - set(train))
    parts = [f"missing in {test_name}: {', '.join(missing[:3])}"] if missing else []
    parts += [f"missing in {train_name}: {', '.join(extra[:3])}"] if extra else []
    raise DataError(
        f"Training and test split have different classes ({'; '.join(parts) or 'the order differs'}).",
        "Give both splits the same classes under the same names.",
    )


def _table(split: _Split, classes: list[str], domains: list[str]) -> ImageTable:
    cells = sorted(split.files.items())
    sizes = np.array([len(files) for _, files in cells], dtype=np.int64)
    labels = np.array([classes.index(name) for (_, name), _ in cells], dtype=np.int64)
    domain_ids = np.array([domains.index(domain) for (domain, _), _ in cells], dtype=np.int64)
    return ImageTable(
        reader=FolderReader(tuple(file for _, files in cells for file in files)),
        rows=np.arange(sizes.sum(), dtype=np.int64),
        labels=np.repeat(labels, sizes),
        domains=np.repeat(domain_ids, sizes),
    )


def _visible(folder: Path) -> Iterator[Path]:
    return (entry for entry in sorted(folder.iterdir()) if not entry.name.startswith("."))


def subfolders(folder: Path) -> list[Path]:
    """Sub-folders in alphabetical order, without hidden ones."""
    return [entry for entry in _visible(folder) if entry.is_dir()]


def _images(folder: Path) -> list[Path]:
    return [entry for entry in _visible(folder) if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()]
