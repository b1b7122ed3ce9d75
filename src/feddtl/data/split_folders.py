"""Folders of training and of test images, found by their names; what merely looks like a split is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from feddtl.data.file_tree import ImageFolder, lines_of
from feddtl.data.split_names import (
    ACCEPTED,
    TEST_SPLITS,
    are_abbreviated,
    is_bare_split,
    marked_split,
    only_one,
    resembled_split,
    split_of,
    without_split,
)
from feddtl.errors import DataError
from feddtl.units import counted, first_few

LAYOUT_HINT = "Put the images into one folder per class, ROOT/CLASS/*.jpg, or into ROOT/DOMAIN/CLASS/*.jpg."
AS_SITES = "--data.partition sites"
OR_SITES_HINT = f"If the folders are sites, with a client for each, add {AS_SITES}."
MOST_NAMES = 5
# A name below ROOT/train is that of a class or a domain, whatever it looks like.
SPLIT_HINT = (
    "Put the images of each split into ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg. If there is no split, put "
    "everything into ROOT/train/CLASS/*.jpg."
)


@dataclass(frozen=True)
class SplitFolders:
    """Where the images of each split are.

    Attributes:
        train: Folder of the training images; the root itself if there are no splits.
        test: Folder of the test images, if there is one.
        unused: Folders beside them.
        explicit: Whether the training images have a folder of their own.
    """

    train: ImageFolder
    test: ImageFolder | None = None
    unused: tuple[ImageFolder, ...] = ()
    explicit: bool = False


def split_folders(root: ImageFolder) -> SplitFolders:
    """The splits of a folder, by the names of those sub-folders that contain folders of images.

    Raises:
        DataError: There are test images and no training images, several folders of one split, or a folder that looks
            like a split and cannot be one.
    """
    above = [f for f in root.folders if any(f.below()) and (not f.images or split_of(f.name))]
    by_name = {folder.name: folder for folder in above}
    kinds = {folder.name: split_of(folder.name) for folder in above}
    found = {split: [name for name in by_name if kinds[name] == split] for split in set(kinds.values()) if split}
    train = only_one(found.get("train", ()), "train", str(root.path))
    test = next((only_one(found[split], split, str(root.path)) for split in TEST_SPLITS if split in found), "")
    _check_lookalikes(root, [name for name in by_name if not kinds[name]])
    if not train:
        if test:
            raise DataError(
                f"{root.path} has a folder '{test}' but no folder 'train'.",
                "Add the training images as 'train', or pass one of the split folders directly. A folder of a class or "
                "a domain needs another name.",
            )
        return SplitFolders(root)
    used = [name for name in (train, test) if name]
    unused = [folder for folder in root.folders if folder.name not in used]
    _check_beside(root, unused, has_test=bool(test))
    return SplitFolders(by_name[train], by_name[test] if test else None, tuple(unused), explicit=True)


def check_no_sites(root: ImageFolder, *, partial: bool) -> None:
    """Refuse sub-folders with splits of their own, ROOT/SITE/train/CLASS: moving their images would destroy the sites.

    Args:
        root: A folder that is read as one data set.
        partial: Whether it is one client's part of a data set.

    Raises:
        DataError: See above.
    """
    found = [(folder, below) for folder in root.folders for below in folder.folders if _is_split(below)]
    if not found or any(map(_is_split, root.folders)):
        return
    first, split = found[0]
    sites = list(dict.fromkeys(f"'{folder.name}'" for folder, _ in found))
    names = first_few(sites, MOST_NAMES)
    if len(root.folders) == 1:
        hint = f"Pass {first.path}. {OR_SITES_HINT}"
    elif partial:
        hint = f"Give each client the folder of its own site, such as {first.path}. To read all sites, add {AS_SITES}."
    else:
        hint = (
            f"If each is a site, add {AS_SITES}. If they are domains of one data set, put the splits above them: "
            "ROOT/train/DOMAIN/CLASS/*.jpg."
        )
    raise DataError(
        f"{root.path} looks like a folder of sites: {names} {'has' if len(sites) == 1 else 'have'} splits of "
        f"{'its' if len(sites) == 1 else 'their'} own, such as {split.path}.",
        hint,
    )


def _is_split(folder: ImageFolder) -> bool:
    """Whether a folder is that of a split by its name, with folders of images in it."""
    return is_bare_split(folder.name) and any(folder.below())


def _check_lookalikes(root: ImageFolder, names: Sequence[str]) -> None:
    if are_abbreviated(names):
        raise DataError(
            f"The folders {', '.join(names)} in {root.path} look like splits, but have no such names: {ACCEPTED}.",
            "Rename them to 'train' and 'test'; or, if they are domains, give them other names.",
        )
    for name in names:
        if split := resembled_split(name):
            raise DataError(
                f"The folder '{name}' in {root.path} looks like a {split} split, but has no such name: {ACCEPTED}.",
                f"Rename it to '{split}'; or, if it is a domain, give it another name.",
            )


def _check_beside(root: ImageFolder, unused: Sequence[ImageFolder], *, has_test: bool) -> None:
    """Refuses images beside a training folder whose place is not clear."""
    for folder in unused:
        if folder.images and is_bare_split(folder.name):
            raise DataError(
                f"{folder.path} looks like a split, but contains {counted(len(folder.images), 'image')} directly, "
                "whose classes are unknown.",
                f"Put them into {folder.path}/CLASS/*.jpg, or move the folder elsewhere.",
            )
        if folder.images and not has_test:
            raise DataError(
                f"{root.path} has a training folder, and beside it {folder.path} with images of its own.",
                f"Move {folder.path} elsewhere, or into the training folder if it is a class.",
            )


def check_cells(root: ImageFolder, cells: Mapping[tuple[str, str], ImageFolder], *, explicit: bool) -> None:
    """Refuse classes and domains that look like splits.

    Args:
        root: Folder of a split, or of everything.
        cells: Class folders by (domain, class).
        explicit: Whether the folder is that of a split, so that a class in it may have any name.

    Raises:
        DataError: See above.
    """
    classes = list(dict.fromkeys(name for _, name in cells))
    domains = [name for name in dict.fromkeys(name for name, _ in cells) if name]
    for name in domains:
        if found := split_of(name) or resembled_split(name):
            raise DataError(
                f"The folder '{name}' in {root.path} looks like a {found} split, but is in the place of a domain.",
                f"Splits belong above domains. {SPLIT_HINT}",
            )
    if explicit and not domains:
        return
    bare = [name for name in classes if is_bare_split(name)]
    test = [name for name in bare if marked_split(name) != "train"]
    if test or (bare and len(bare) == len(classes)):
        raise DataError(
            f"The class folder '{(test or bare)[0]}' in {root.path} looks like a split.",
            f"Splits belong above classes. {SPLIT_HINT}",
        )
    if not explicit:
        _check_pairs(root, classes)
        _check_files(root, list(cells.values()))


def _check_pairs(root: ImageFolder, classes: Sequence[str]) -> None:
    """Refuses `cat_train` beside `cat_test`, and `cat` beside `cat_test`: two splits of a class, not two classes."""
    known: dict[str, str] = {}
    for name in classes:
        stem = without_split(name)
        other = known.setdefault(stem, name) if stem else name
        splits = {marked_split(name), marked_split(other)}
        if len(splits) == 2 and splits != {None, "train"}:  # a station beside a train station
            raise DataError(
                f"The class folders '{other}' and '{name}' in {root.path} look like two splits of one class.",
                SPLIT_HINT,
            )


def _check_files(root: ImageFolder, folders: Sequence[ImageFolder]) -> None:
    """Refuses images that their file names place in a test split, unless all images or their class are named so."""
    folders = [folder for folder in folders if not marked_split(folder.name)]
    splits = {file: marked_split(file.stem) for folder in folders for file in folder.images}
    marked = [str(file) for file, split in splits.items() if split in TEST_SPLITS]
    if marked and len(marked) < len(splits):
        raise DataError(
            f"{root.path} has {counted(len(marked), 'image')} whose file names look like a test split:"
            f"{lines_of(marked, 3)}",
            SPLIT_HINT,
        )
