"""Which parquet files of a folder belong to which split, by the names of files and folders."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from feddtl.config.names import composed
from feddtl.data.data_card import require_splits_of_card
from feddtl.data.image_files import IMAGE_SUFFIXES, is_hidden
from feddtl.data.split_folders import OR_SITES_HINT
from feddtl.data.split_names import ACCEPTED, TEST_SPLITS, Split, are_abbreviated, resembled_split, split_of
from feddtl.errors import DataError
from feddtl.notes import Warned
from feddtl.units import first_few

DEPTH = 3  # folders between the one that is given and a file: a configuration, 'data' and a split
MOST_NAMES = 10
_TABLES = frozenset(
    (".parq", ".pq", ".arrow", ".feather", ".csv", ".tsv", ".jsonl", ".tar", ".zip", ".gz", ".npz", ".h5")
)
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(?!\d).*")
_ENDS_LIKE_A_SPLIT = re.compile(r".*(?<!la|on|ro|at|ea|as)(test|(?<!s)train)", re.IGNORECASE)


@dataclass(frozen=True)
class ParquetSplits:
    """The files of each split.

    Attributes:
        train: Files of the training rows, in the order of their names.
        test: Files of the test rows; empty if there is no test split.
        notes: What the user should know.
    """

    train: list[Path]
    test: list[Path]
    notes: tuple[str, ...] = ()


def parquet_files(folder: Path) -> list[Path]:
    """Parquet files of a folder and of the folders below it, where the Hub keeps them.

    Raises:
        DataError: A file is a link that leads nowhere.
    """
    found = [file for file in _below(folder, DEPTH) if file.suffix.lower() == ".parquet"]
    if broken := [file for file in found if not file.exists()]:
        raise DataError(f"{broken[0]} is a link to a file that does not exist.", "Restore the file or remove the link.")
    return [file for file in found if file.is_file()]


def parquet_splits(path: Path, train: Sequence[str] = ("train",), test: str = "") -> ParquetSplits:
    """The files of each split of a folder; a file that is given itself is the training split.

    Args:
        path: A file or a folder.
        train: Names of the splits that are trained on.
        test: Name of the test split that is preferred; '' for none.

    Raises:
        DataError: There is no training file; files lie in several folders; a file's name says two splits, another split
            than README.md, or looks like a split and is not taken for one; or a file of a numbered series is missing.
    """
    if path.is_file():
        return ParquetSplits([path], [])
    files = parquet_files(path)
    _check_one_configuration(path, files)
    splits = {file: _split_of_file(path, file) for file in files}
    trained = [split_of(name) or "train" for name in train]
    chosen = [file for split in trained for file, found in splits.items() if found == split]
    order = [split for split in (split_of(test), *TEST_SPLITS) if split and split not in trained]
    tests = next((found for split in order if (found := [file for file in files if splits[file] == split])), [])
    unknown = [file for file in files if splits[file] is None]
    if len(files) > 1:
        _check_lookalikes(unknown)
    if not chosen and any(splits.values()):
        other = next(file for file in files if splits[file])
        raise DataError(
            f"{path} has {other.name} but no training file.",
            "Add train-*.parquet, or pass the single file directly to hold out a test split from it.",
        )
    used = [*(chosen or files), *tests]
    require_splits_of_card(path, files, chosen or files)
    _check_series(used)
    unused = [file.name for file in files if file not in used]
    note = f"Files of {path} are ignored: {first_few(unused, MOST_NAMES)}." if unused else ""
    return ParquetSplits(chosen or files, tests, tuple(filter(None, (note, _note_of_others(path)))))


def _split_of_file(root: Path, file: Path) -> Split | None:
    """The split that a file's folders or its own name say; 'train/part-0.parquet' and 'mydata_train.parquet'."""
    relative = file.relative_to(root)
    found = {split for part in (*relative.parent.parts, relative.stem) if (split := split_of(composed(part)))}
    if len(found) > 1:
        raise DataError(f"The folder of {file} is that of another split than its name.", "Rename the file, or move it.")
    return found.pop() if found else None


def _check_one_configuration(root: Path, files: Sequence[Path]) -> None:
    """Refuses files in several folders, unless the folders are those of splits."""
    folders: dict[tuple[str, ...], Path] = {}
    for file in files:
        parts = file.relative_to(root).parent.parts
        folders.setdefault(tuple(part for part in parts if not split_of(part)), file.parent)
    if len(folders) > 1:
        raise DataError(
            f"{root} has parquet files in several subfolders: "
            f"{', '.join(sorted(str(Path(*parts)) if parts else 'itself' for parts in folders))}.",
            f"Pass one of them: {min(folder for parts, folder in folders.items() if parts)}. {OR_SITES_HINT}",
        )


def _check_lookalikes(unknown: Sequence[Path]) -> None:
    short = are_abbreviated([file.stem for file in unknown])
    for file in unknown:
        word = short or resembled_split(file.stem) or _ENDS_LIKE_A_SPLIT.fullmatch(file.stem)
        if word:
            raise DataError(
                f"{file} looks like a split, but its name has none of the words: {ACCEPTED}.",
                "Rename it, for example to train-0.parquet or test-0.parquet, or move it elsewhere.",
            )


def _check_series(files: Sequence[Path]) -> None:
    """Refuses a series `train-00000-of-00003` of which a file is missing: its images would be left out."""
    present: dict[tuple[Path, str, str], set[int]] = {}
    for file in files:
        if found := _SHARD.fullmatch(file.stem):
            present.setdefault((file.parent, found[1], found[3]), set()).add(int(found[2]))
    for (folder, name, count), numbers in present.items():
        if missing := sorted(set(range(int(count))) - numbers):
            raise DataError(
                f"{folder} has {len(numbers)} of the {int(count)} files {name}-*-of-{count}.parquet; "
                f"{name}-{missing[0]:05}-of-{count}.parquet is missing.",
                "Download the missing files; or, to use these alone, rename them without '-of-'.",
            )


def _note_of_others(root: Path) -> str:
    """A note on images and tables beside the parquet files; '' if there are none."""
    files = list(_below(root, DEPTH))
    endings = Counter(file.suffix.lower() for file in files)
    others = [f"{ending} ({count})" for ending, count in sorted(endings.items()) if ending in IMAGE_SUFFIXES | _TABLES]
    if not others:
        return ""
    tables, images = (
        {file.relative_to(root).parts[0] for file in files if file.suffix.lower() in suffixes and file.parent != root}
        for suffixes in ((".parquet",), IMAGE_SUFFIXES)
    )
    sites = f" {OR_SITES_HINT}" if tables and images - tables else ""
    return Warned(f"Files of {root} that are not parquet files are not used: {first_few(others, MOST_NAMES)}.{sites}")


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """Visible files of a folder and of the folders below it, up to a depth."""
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not is_hidden(entry.name)]
    shown.sort(key=lambda entry: (composed(entry.name), entry.name))
    yield from (Path(entry.path) for entry in shown if not _is_folder(entry))
    for entry in shown if depth else ():
        if _is_folder(entry):
            yield from _below(Path(entry.path), depth - 1)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or leads to one; a link to itself leads nowhere."""
    try:
        return entry.is_dir()
    except OSError:
        return False
