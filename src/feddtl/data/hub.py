"""Tables of images in Hugging Face format: parquet files, or data sets on the Hub."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from feddtl.config.names import readable
from feddtl.data.columns import (
    Columns,
    find_columns,
    read_domains,
    read_labels,
    require_no_split_column,
    unused_sites_note,
)
from feddtl.data.decode import EncodedImage
from feddtl.data.folders import check_same_classes
from feddtl.data.parquet_files import parquet_splits
from feddtl.data.shards import load_quietly, read_shards
from feddtl.data.split_names import TEST_SPLITS, WORDS, only_one, split_of
from feddtl.data.table import ImageDataset, ImageTable, Indices
from feddtl.errors import DataError

if TYPE_CHECKING:
    import datasets

    from feddtl.data.catalog import CatalogEntry


@dataclass(frozen=True)
class HubReader:
    """Images of one split; `split` stores encoded bytes, nothing decoded."""

    split: datasets.Dataset
    column: str
    where: str

    def __call__(self, row: int) -> EncodedImage:
        """The image of one row. Raises DataError naming split and row."""
        encoded = self.split[row][self.column] or {}
        where = f"in row {row} of {self.where}"
        if encoded.get("bytes"):
            return EncodedImage(encoded["bytes"], where)
        if encoded.get("path"):
            return EncodedImage(Path(encoded["path"]), f"{encoded['path']} {where}")
        raise DataError(f"There is no image {where}.", "Remove the row from the data set.")


@dataclass(frozen=True)
class Splits:
    """What was read from parquet files or from the Hub, before its columns are used.

    Attributes:
        name: Short name of the data set.
        where: Its path or id, for errors.
        train: Training rows.
        test: Test rows; None if there is no test split.
        columns: Columns that are known, see `find_columns`.
        notes: What the user should know.
    """

    name: str
    where: str
    train: datasets.Dataset
    test: datasets.Dataset | None
    columns: Columns
    notes: tuple[str, ...] = ()

    def dataset(self, *, partial: bool = False) -> ImageDataset:
        """The tables of images; class lists of the splits must agree, or are joined if `partial`."""
        columns = find_columns(self.train, self.columns, self.where)
        require_no_split_column(self.train, columns, self.where)
        found = _from_splits(self.name, self.where, self.train, self.test, self.columns, partial=partial)
        note = unused_sites_note(self.train, columns, self.where)
        return replace(found, notes=(*self.notes, note) if note else self.notes)


def load_parquet(
    path: Path, columns: Columns, entry: CatalogEntry | None = None, *, partial: bool = False
) -> ImageDataset:
    """Data set of a parquet file, or of a folder with `train-*.parquet` and `test-*.parquet` (or in data/).

    The test table is empty if there is no test split.

    Args:
        path: File or folder.
        columns: Which columns contain what.
        entry: Catalogue entry of which it is a copy; its splits and columns apply if the files have them.
        partial: Whether it is one client's part of a data set, whose splits may have different classes.

    Raises:
        DataError: No training file, unreadable files, or columns that cannot be determined.
    """
    return open_parquet(path, columns, entry).dataset(partial=partial)


def open_parquet(path: Path, columns: Columns, entry: CatalogEntry | None = None) -> Splits:
    """The splits of `load_parquet`. Raises DataError for no training file, or unreadable files."""
    files = parquet_splits(path, *((entry.train_split.split("+"), entry.test_split) if entry else ()))
    usual_columns = (columns.label, *((entry.columns.label,) if entry else ()))
    train = read_shards(files.train, usual_columns)
    test = read_shards(files.test, usual_columns) if files.test else None
    if entry:
        asked = zip(astuple(columns), astuple(entry.columns), strict=True)
        columns = Columns(*(name or (usual if usual in train.features else "") for name, usual in asked))
    name = path.stem if path.is_file() else path.resolve().name
    return Splits(name, str(path), train, test, columns, files.notes)


def load_hub(hub_id: str, columns: Columns) -> ImageDataset:
    """Data set of a Hub id; respects HF_HUB_OFFLINE, HF_HOME and the token of `hf auth login`.

    Raises:
        DataError: Not found, no network, no training split, or columns that cannot be determined.
    """
    return open_hub(hub_id, columns).dataset()


def open_hub(hub_id: str, columns: Columns) -> Splits:
    """The splits of `load_hub`. Raises DataError if it is not found, or has no training split."""
    fetch = f"hf download {hub_id} --repo-type dataset --local-dir FOLDER"
    splits = _download(hub_id, f"download it on another machine (`{fetch}`) and use --data.source FOLDER.")
    train_name, test_name = _names_of_splits(tuple(splits), hub_id)
    hint = "Save it as parquet files train-*.parquet and test-*.parquet, and pass their folder."
    train = _joined(splits, train_name, hub_id, hint)
    test = splits[test_name] if test_name else None
    return Splits(hub_id.rsplit("/", 1)[-1], hub_id, train, test, columns)


def _names_of_splits(names: tuple[str, ...], hub_id: str) -> tuple[str, str]:
    """Names of the training split and of the test split, '' for none. Raises DataError if there are several of one."""
    found = {split: [name for name in names if split_of(name) == split] for split in WORDS}
    chosen = {split: split if split in found[split] else only_one(found[split], split, hub_id) for split in WORDS}
    test = next((chosen[split] for split in TEST_SPLITS if chosen[split]), "")
    if len(names) == 1 and test:
        raise DataError(
            f"{hub_id} has no training split; its only split is '{test}'.",
            "Choose another data set; or download it and pass the parquet file itself, to train on a part of it.",
        )
    return chosen["train"] or (names[0] if len(names) == 1 else "train"), test


def load_catalogued(entry: CatalogEntry) -> ImageDataset:
    """Data set of a catalogue entry, with its columns, splits, class names and prompt.

    Raises:
        DataError: As for `load_hub`, or the Hub's data differ from the entry.
    """
    if not entry.hub_id:
        raise DataError(
            f"'{entry.name}' cannot be downloaded by name. {entry.source_note}",
            f"Put the images into ROOT/{entry.name}/DOMAIN/CLASS/*.jpg and run with --data.root ROOT.",
        )
    # A plain download would lose the catalogue's class names and prompt; the loader's cache does not.
    copy = f"run '{entry.name}' once on a machine with one, copy its HF_HOME folder here and set HF_HOME to it."
    splits = _download(entry.hub_id, copy)
    hint = "The Hub's copy has changed. Save the images in a folder and pass it with --data.source FOLDER."
    train = _joined(splits, entry.train_split, entry.hub_id, hint)
    test = _joined(splits, entry.test_split, entry.hub_id, hint) if entry.test_split else None
    return entry.described(_from_splits(entry.name, entry.hub_id, train, test, entry.columns), entry.hub_id)


def _joined(splits: datasets.DatasetDict, wanted: str, hub_id: str, hint: str) -> datasets.Dataset:
    """One split, or several named with `+`, one after another."""
    import datasets as hf

    names = wanted.split("+")
    missing = [name for name in names if name not in splits]
    if missing:
        raise DataError(f"The Hub data set {hub_id} has no split '{missing[0]}'; it has {', '.join(splits)}.", hint)
    return splits[names[0]] if len(names) == 1 else hf.concatenate_datasets([splits[name] for name in names])


def _from_splits(
    name: str,
    where: str,
    train: datasets.Dataset,
    test: datasets.Dataset | None,
    columns: Columns,
    *,
    partial: bool = False,
) -> ImageDataset:
    """Converts one or two splits to tables; both have the same classes, in any order, or all of both if `partial`."""
    splits = {"train": train} if test is None else {"train": train, "test": test}
    found = find_columns(train, columns, where)
    if test is not None:
        find_columns(test, found, f"{where} (test)")
    domains, domain_names = read_domains(list(splits.values()), found.domain)
    tables, names = {}, {}
    for (split, content), domain_ids in zip(splits.items(), domains, strict=True):
        labels, names[split] = read_labels(content, found, f"{where} ({split})")
        tables[split] = _table(content, found.image, f"{where} ({split})", labels, domain_ids)
    class_names = names["train"]
    if test is None:
        tables["test"] = tables["train"].select([])
    elif names["train"] != names["test"]:
        if partial:
            class_names = tuple(sorted({*names["train"], *names["test"]}))
        else:
            check_same_classes(sorted(names["train"]), sorted(names["test"]), "train", "test")
        for split, table in tables.items():
            new_ids = np.array([class_names.index(name) for name in names[split]], dtype=np.int64)
            tables[split] = table.relabelled(new_ids)
    return ImageDataset(name, tables["train"], tables["test"], tuple(map(readable, class_names)), domain_names)


def _table(split: datasets.Dataset, column: str, where: str, labels: Indices, domains: Indices) -> ImageTable:
    import datasets as hf

    # Encoded bytes are decoded here, so that errors name a damaged row and every source is decoded alike.
    encoded = split.select_columns([column]).cast_column(column, hf.Image(decode=False))
    return ImageTable(HubReader(encoded, column, where), np.arange(len(labels), dtype=np.int64), labels, domains)


def _download(hub_id: str, without_network: str) -> datasets.DatasetDict:
    failure = f"Cannot load '{hub_id}' from the Hugging Face Hub, and no folder has that name"
    return load_quietly(
        failure, f"Check the id and the network connection. Without a network, {without_network}", hub_id
    )
