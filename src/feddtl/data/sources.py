"""Loads images from any source: generated shapes, catalogue names, Hub ids, folders, parquet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from feddtl.checks import split_names
from feddtl.config import DataConfig
from feddtl.config.names import name_key
from feddtl.config.protocol import SHAPES, alphanumeric, follows_protocol
from feddtl.data.catalog import CATALOG, find_entry
from feddtl.data.columns import Columns
from feddtl.data.drawing import FEDERATED_DOMAINS
from feddtl.data.folders import MOST_NAMES, READ_AS_DOMAINS, FolderReader, load_folder, subfolders
from feddtl.data.hub import load_catalogued, load_hub, load_parquet
from feddtl.data.image_checks import dark_note
from feddtl.data.parquet_files import parquet_files
from feddtl.data.shapes import shapes_dataset
from feddtl.data.split_folders import AS_SITES, LAYOUT_HINT
from feddtl.data.splits import with_fewer_test_images, with_test_split
from feddtl.data.table import ONE_DOMAIN, ImageDataset, ImageTable
from feddtl.data.templates import chosen_prompt
from feddtl.errors import DataError, did_you_mean
from feddtl.state_folder import expanded
from feddtl.units import first_few

# A held-out split, generated images and scored test images are the same for every seed of an experiment.
DATASET_SEED = 0
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def load_dataset(config: DataConfig | str, copy: str = "", *, partial: bool = False) -> ImageDataset:
    """The data set that an experiment names, with all classes; images are decoded only when they are read.

    Names take precedence over paths: write `./cifar10` for a folder with that name.

    Args:
        config: Which data set; a text is its name or path. How it is divided among clients does not matter.
        copy: Path of a copy on this machine, which replaces the source and the root; "" for none. Generated shapes
            need none.
        partial: Whether the copy is one client's part of a data set: it may have a single class, classes in only one
            of its splits, and no test images.

    Returns:
        The data set; `notes` lists automatic decisions.

    Raises:
        DataError: The source cannot be found or used, or is on the clients; the message explains what to do.
    """
    config = DataConfig(source=config) if isinstance(config, str) else config
    if config.on_clients and not partial:
        raise DataError(
            "data.source = 'clients' means that each client has its own images; this machine has none.",
            "Run the experiment with `feddtl submit EXPERIMENT.toml`, or choose local images with --data.source.",
        )
    columns = columns_of(config)
    if config.source == SHAPES:
        _check_no_columns(SHAPES, columns)
        dataset = shapes_dataset(
            split_names(config.domains) or FEDERATED_DOMAINS, seed=DATASET_SEED, novel=config.novel
        )
    else:
        dataset = _read(config, copy, columns, partial)
    return completed(dataset, config, copy or config.source, partial=partial)


def completed(dataset: ImageDataset, config: DataConfig, where: str, *, partial: bool = False) -> ImageDataset:
    """What is read from a source, as an experiment uses it: its domains, prompt and number of test images.

    Args:
        dataset: As it is read, without a held-out test split.
        config: Which domains and prompt, and how many test images.
        where: The source's name in errors.
        partial: As for `load_dataset`.

    Raises:
        DataError: No experiment can use it.
    """
    domains = split_names(config.domains)
    if config.source != SHAPES:
        dataset = with_test_split(dataset, DATASET_SEED)
        dataset = _keep_domains(dataset, domains) if domains else dataset
    _check(dataset, where, partial=partial)
    prompt = chosen_prompt(config.prompt, dataset.prompt_template, config.source)
    dataset = replace(dataset, prompt_template=prompt)
    if config.source not in (SHAPES, *CATALOG) and (note := dark_note(dataset.train)):
        dataset = replace(dataset, notes=(*dataset.notes, note))
    return with_fewer_test_images(dataset, config.test_images_per_class, DATASET_SEED)


def domains_note(dataset: ImageDataset, config: DataConfig) -> str:
    """A note on folders that are read as domains and may be sites; '' if there are none, or the user speaks of domains.

    Args:
        dataset: As `load_dataset` reads it.
        config: Where it is, and how it is divided among clients.
    """
    asked = config.domains or config.partition in ("domain", "domain-dirichlet")
    of_user = isinstance(dataset.train.reader, FolderReader) and not follows_protocol(config.source, config.root)
    said = any(note.startswith(READ_AS_DOMAINS) for note in dataset.notes)
    if asked or said or not of_user or len(dataset.domain_names) < 2:
        return ""
    names = first_few(dataset.domain_names, MOST_NAMES)
    moved = (
        "" if dataset.test.reader is dataset.train.reader else ", with its splits inside: ROOT/SITE/train/CLASS/*.jpg"
    )
    return (
        f"The folders {names} are read as domains of one data set. If each is a site, with a client of its own, add "
        f"{AS_SITES}{moved}."
    )


def columns_of(config: DataConfig) -> Columns:
    """The columns that the settings name."""
    return Columns(config.image_column, config.label_column, config.domain_column)


def _check_no_columns(source: str, columns: Columns) -> None:
    if columns != Columns():
        raise DataError(f"'{source}' has no columns to choose.", "Omit the column options.")


def _check(dataset: ImageDataset, source: str, *, partial: bool) -> None:
    """Refuses data that no experiment can use."""
    names = dataset.class_names
    if len(names) < 2 and not partial:
        raise DataError(f"{source} has a single class: {', '.join(names)}.", "Use at least two classes.")
    if unreadable := [name for name in (*names, *dataset.domain_names) if not _is_text(name)]:
        raise DataError(f"The name {unreadable[0]!a} in {source!a} is not stored as UTF-8.", "Rename it.")
    if "" in names:
        raise DataError(f"A class of {source} has no name, or one of blanks and underscores alone.", "Rename it.")
    _check_alike(names, source)
    domains = "" if dataset.domain_names == ONE_DOMAIN else f" in the domains {', '.join(dataset.domain_names)}"
    for split, table in (("training", dataset.train), ("test", dataset.test)):
        if not len(table) and not (partial and split == "test"):
            raise DataError(
                f"{source} has no {split} images{domains}.",
                "Add images (at least two per class, to hold one out for testing), or choose other domains.",
            )


def _check_alike(names: Sequence[str], source: str) -> None:
    """Refuse two classes whose names are one in a list of classes, where case does not count."""
    known: dict[str, str] = {}
    for position, name in enumerate(names):
        other = known.setdefault(name_key(name), name)
        if other != name:
            raise DataError(
                f"Two classes of {source} differ only in case: '{other}' and '{name}'.",
                "Rename one of them, or merge them if they are the same class.",
            )
        if len(known) <= position:
            raise DataError(f"Two classes of {source} are both named '{name}'.", "Rename or merge them.")


def _is_text(name: str) -> bool:
    """Whether a name can be written; that of a folder may be any bytes."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _read(config: DataConfig, copy: str, columns: Columns, partial: bool) -> ImageDataset:
    """Reads a copy, a folder, a data set of the catalogue or one of the Hub."""
    source, is_copy = config.source, bool(copy or config.root)
    try:
        path = local_path(source, config.root, copy)
        if path is None and source in CATALOG:
            _check_no_columns(source, columns)
            return load_catalogued(CATALOG[source])
        if path is None:
            return load_hub(source, columns)
        # A copy of a catalogued data set has the class names and the prompt of the catalogue.
        entry = find_entry(source) if is_copy and not partial else None
        if path.is_file() or parquet_files(path):
            dataset = load_parquet(path, columns, entry, partial=partial)
        else:
            _check_no_columns(source, columns)
            dataset = load_folder(path, partial=partial)
    except OSError as error:
        raise DataError(
            f"Cannot read the images of {copy or source}: {error}", "Check that you have permission to read the folder."
        ) from error
    return entry.described(dataset, str(path)) if entry else dataset


def local_path(source: str, root: str, copy: str) -> Path | None:
    """The copy, the sub-folder of the root, or the path that the source is; None for a name or a Hub id."""
    if root and not copy:
        return _find_copy(expanded(root), source)
    path = expanded(copy or source)
    if not copy and (source in CATALOG or (not path.exists() and _HUB_ID.fullmatch(source))):
        return None
    if not path.exists():
        if copy:
            raise DataError(f"There is no {path}.", "Pass the path of a folder of images or of parquet files.")
        raise DataError(
            f"There is no folder, catalogue name or Hub id '{source}'.", did_you_mean(source, [SHAPES, *CATALOG])
        )
    if path.is_file() and path.suffix.lower() != ".parquet":
        raise DataError(f"{path} is a file, but not a parquet file.", LAYOUT_HINT)
    return path


def _find_copy(root: Path, name: str) -> Path:
    """Sub-folder of `root` for a data set; case and punctuation are ignored: `Office-Caltech-10` is `officecaltech10`.

    Raises:
        DataError: There is no such folder, or several sub-folders match.
    """
    if not root.is_dir():
        raise DataError(
            f"data.root = '{root}' is not a folder.", "Set it to a folder with one sub-folder per data set."
        )
    folders = {folder.name: folder for folder in subfolders(root)}
    found = [folder for folder in folders if alphanumeric(folder) == alphanumeric(name)]
    if len(found) > 1:
        raise DataError(f"{root} has several sub-folders for '{name}': {', '.join(found)}.", "Rename all but one.")
    if not found:
        raise DataError(
            f"{root} has no sub-folder for the data set '{name}'. Its sub-folders: {', '.join(folders) or 'none'}.",
            f"Put parquet files or images into {root / name}, or omit --data.root to use the Hub.",
        )
    return folders[found[0]]


def _keep_domains(dataset: ImageDataset, wanted: Sequence[str]) -> ImageDataset:
    """The data set restricted to some of its domains, in its own order; case in names is ignored."""
    if dataset.domain_names == ONE_DOMAIN:
        raise DataError(f"{dataset.name} has no domains to choose from.", "Omit the option 'domains'.")
    exact = {name: i for i, name in enumerate(dataset.domain_names)}
    by_key = {name_key(name): i for name, i in exact.items()}
    for name in wanted:
        if name_key(name) not in by_key:
            raise DataError(f"{dataset.name} has no domain '{name}'.", did_you_mean(name, dataset.domain_names))
    kept = sorted({exact.get(name, by_key[name_key(name)]) for name in wanted})
    train, test = _of_domains(dataset.train, kept), _of_domains(dataset.test, kept)
    names = tuple(dataset.domain_names[i] for i in kept)
    lost = [name for i, name in enumerate(dataset.class_names) if i not in train.labels]
    note = f"The domains {', '.join(names)} have no training images of: {', '.join(lost)}."
    notes = (*dataset.notes, note) if lost else dataset.notes
    return replace(dataset, train=train, test=test, domain_names=names, notes=notes)


def _of_domains(table: ImageTable, kept: list[int]) -> ImageTable:
    """Rows of these domains, with renumbered domain ids."""
    chosen = table.select(np.flatnonzero(np.isin(table.domains, kept)))
    return replace(chosen, domains=np.searchsorted(kept, chosen.domains).astype(np.int64))
