"""Tables of images in Hugging Face format: parquet files, or data sets on the Hub."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from feddtl.data.columns import Columns, find_columns, read_domains, read_labels
from feddtl.data.decode import EncodedImage
from feddtl.data.folders import check_same_classes
from feddtl.data.table import ImageDataset, ImageTable, Indices, readable
from feddtl.errors import DataError
from feddtl.state_folder import require_hub_cache

if TYPE_CHECKING:
    import datasets

    from feddtl.data.catalog import CatalogEntry

TEST_SPLITS = ("test", "validation", "valid", "val")


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
    train_files, test_files, notes = _parquet_splits(path, entry)
    train = _read_parquet(train_files)
    test = _read_parquet(test_files) if test_files else None
    if entry:
        asked = zip(astuple(columns), astuple(entry.columns), strict=True)
        columns = Columns(*(name or (usual if usual in train.features else "") for name, usual in asked))
    name = path.stem if path.is_file() else path.resolve().name
    return replace(_from_splits(name, str(path), train, test, columns, partial=partial), notes=notes)


def load_hub(hub_id: str, columns: Columns) -> ImageDataset:
    """Data set of a Hub id; respects HF_HUB_OFFLINE, HF_HOME and the token of `hf auth login`.

    Raises:
        DataError: Not found, no network, no training split, or columns that cannot be determined.
    """
    fetch = f"hf download {hub_id} --repo-type dataset --local-dir FOLDER"
    splits = _download(hub_id, f"download it on another machine ({fetch}) and use --data.source FOLDER.")
    train_name = next(iter(splits)) if len(splits) == 1 else "train"
    test_name = next((name for name in TEST_SPLITS if name in splits and name != train_name), "")
    hint = "Save it as parquet files train-*.parquet and test-*.parquet, and pass their folder."
    train = _joined(splits, train_name, hub_id, hint)
    test = splits[test_name] if test_name else None
    return _from_splits(hub_id.rsplit("/", 1)[-1], hub_id, train, test, columns)


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
    """Converts one or two splits to tables; class lists must agree, or are joined if `partial`."""
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
    elif partial:
        class_names = tuple(sorted({*names["train"], *names["test"]}))
        for split, table in tables.items():
            new_ids = np.array([class_names.index(name) for name in names[split]], dtype=np.int64)
            tables[split] = table.relabelled(new_ids)
    else:
        check_same_classes(list(class_names), list(names["test"]), "train", "test")
    return ImageDataset(name, tables["train"], tables["test"], tuple(map(readable, class_names)), domain_names)


def _table(split: datasets.Dataset, column: str, where: str, labels: Indices, domains: Indices) -> ImageTable:
    import datasets as hf

    # Encoded bytes are decoded here, so that errors name a damaged row and every source is decoded alike.
    encoded = split.select_columns([column]).cast_column(column, hf.Image(decode=False))
    return ImageTable(HubReader(encoded, column, where), np.arange(len(labels), dtype=np.int64), labels, domains)


def _parquet_splits(path: Path, entry: CatalogEntry | None) -> tuple[list[Path], list[Path], tuple[str, ...]]:
    """Training files, files of the first test split found, and a note about ignored files."""
    train_names = tuple(entry.train_split.split("+")) if entry else ("train",)
    test_names = [name for name in (entry.test_split if entry else "", *TEST_SPLITS) if name not in ("", *train_names)]
    if path.is_file():
        return [path], [], ()
    files = parquet_files(path)
    train = [file for file in files if file.name.startswith(train_names)]
    # 'val' begins 'validation' too: no file may be on both sides.
    others = [file for file in files if file not in train]
    tests = [[file for file in others if file.name.startswith(name)] for name in test_names]
    test = next((found for found in tests if found), [])
    if not train and test:
        raise DataError(
            f"{path} has {test[0].name} but no training file.",
            "Add train-*.parquet, or pass the single file directly to hold out a test split from it.",
        )
    if not train:
        return files, [], ()
    unused = [file.name for file in files if file not in train and file not in test]
    return train, test, (f"Files of {path} are ignored: {', '.join(unused)}.",) if unused else ()


def parquet_files(folder: Path) -> list[Path]:
    """Parquet files of a folder, or of the one subfolder where the Hub keeps them: data/, or a configuration's.

    Raises:
        DataError: Several subfolders other than data/ contain parquet files.
    """
    for folder_of_files in (folder, folder / "data"):
        if files := _visible_parquet(folder_of_files):
            return files
    found = {
        below: files for below in sorted(folder.iterdir()) if below.is_dir() and (files := _visible_parquet(below))
    }
    if len(found) > 1:
        raise DataError(
            f"{folder} has parquet files in several subfolders: {', '.join(below.name for below in found)}.",
            f"Pass one of them: {next(iter(found))}.",
        )
    return next(iter(found.values()), [])


def _visible_parquet(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.parquet") if not file.name.startswith("."))


def _read_parquet(files: list[Path]) -> datasets.Dataset:
    """One split. Splits are read one by one: read together, the test split takes the class names of train."""
    hint = "Check that the file is complete and in parquet format."
    names = [str(file) for file in files]
    return _load(f"Cannot read {names[0]}", hint, "parquet", data_files={"train": names}, split="train")


def _download(hub_id: str, without_network: str) -> datasets.DatasetDict:
    failure = f"Cannot load '{hub_id}' from the Hugging Face Hub, and no folder has that name"
    return _load(failure, f"Check the id and the network connection. Without a network, {without_network}", hub_id)


def _load(failure: str, hint: str, source: str, **options: Any) -> Any:
    """What the loader returns, without its progress bars, because the command line draws its own."""
    require_hub_cache()
    import datasets as hf

    were_hidden = hf.are_progress_bars_disabled()
    hf.disable_progress_bars()
    try:
        return hf.load_dataset(source, **options)
    # The loader passes on errors of pyarrow, the network, the Hub, its cache and the file system, and its own.
    except Exception as error:
        # Only this error's cause says what is wrong with a file.
        cause = error.__cause__ if isinstance(error, hf.exceptions.DatasetGenerationError) else None
        lines = str(cause or error).splitlines()
        raise DataError(f"{failure}: {lines[0] if lines else type(cause or error).__name__}", hint) from error
    finally:
        if not were_hidden:
            hf.enable_progress_bars()
