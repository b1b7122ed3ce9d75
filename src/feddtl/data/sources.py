"""Loads images from any source: generated shapes, catalogue names, Hub ids, folders, parquet."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from feddtl.data.catalog import CATALOG
from feddtl.data.columns import Columns
from feddtl.data.copies import catalogued, find_copy
from feddtl.data.folders import LAYOUT_HINT, load_folder
from feddtl.data.hub import load_catalogued, load_catalogued_parquet, load_hub, load_parquet, parquet_files
from feddtl.data.splits import with_test_split
from feddtl.data.table import ImageDataset, ImageTable
from feddtl.errors import DataError, did_you_mean

SHAPES = "shapes"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def load_dataset(
    source: str,
    *,
    root: str = "",
    copy: str = "",
    domains: str = "",
    prompt: str = "",
    seed: int = 0,
    image_column: str = "",
    label_column: str = "",
    domain_column: str = "",
    partial: bool = False,
) -> ImageDataset:
    """Images with classes and domains from any source; images are decoded only when they are read.

    Args:
        source: `shapes`, a catalogue name such as `cifar10`, a Hub id `owner/name`, a folder of images, or
            a folder or file of parquet in Hub format. Names take precedence over paths: write
            `./cifar10` for a folder with that name.
        root: Folder of local copies, one sub-folder per data set, in which the name is looked up instead of the
            Hub; "" for none. Generated shapes need none.
        copy: Path of a local copy of the data set, which replaces `source` and `root`; "" for none. Generated shapes
            need none.
        domains: Comma-separated domain names to keep; "" for all.
        prompt: Text with `{class}` in place of the class name; "" for the source's own.
        seed: Seed of the run, for a held-out test split and for generated images.
        image_column: Column of a Hub or parquet source; "" to detect it.
        label_column: As `image_column`, for the classes.
        domain_column: As `image_column`, for the domains.
        partial: Whether the copy is one client's part of a data set: it may have a single class, classes in only one
            of its splits, and no test images.

    Returns:
        The data set; `notes` lists automatic decisions.

    Raises:
        DataError: The source cannot be found or used; the message explains what to do.
    """
    if prompt and "{class}" not in prompt:
        raise DataError(
            f"The prompt '{prompt}' has no placeholder for the class name.",
            "Add {class}, for example 'a photo of a {class}.'",
        )
    wanted = [name.strip() for name in domains.split(",") if name.strip()]
    columns = Columns(image_column, label_column, domain_column)
    if columns != Columns() and not _takes_columns(source, root, copy):
        raise DataError(f"'{source}' has no columns to choose.", "Omit the column options.")
    if source == SHAPES:
        dataset = _shapes(wanted, seed)
    else:
        dataset = _keep_domains(with_test_split(_load_source(source, root, copy, columns, partial), seed), wanted)
    _check(dataset, copy or source, partial=partial)
    return replace(dataset, prompt_template=prompt) if prompt else dataset


def _check(dataset: ImageDataset, source: str, *, partial: bool) -> None:
    """Refuses data that no experiment can use."""
    names = dataset.class_names
    if len(names) < 2 and not partial:
        raise DataError(f"{source} has a single class: {', '.join(names)}.", "Use at least two classes.")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"Two classes of {source} are both named '{twice[0]}'.", "Rename or merge them.")
    place = "" if dataset.domain_names == ("all",) else f" in the domains {', '.join(dataset.domain_names)}"
    for split, table in (("training", dataset.train), ("test", dataset.test)):
        if not len(table) and not (partial and split == "test"):
            raise DataError(
                f"{source} has no {split} images{place}.",
                "Add images (at least two per class, to hold one out for testing), or choose other domains.",
            )


def _load_source(source: str, root: str, copy: str, columns: Columns, partial: bool) -> ImageDataset:
    """Reads the copy below the root if a root is given; else catalogue name, path or Hub id, in this order."""
    if copy and partial:
        return _load_directory(Path(copy).expanduser(), columns, partial=True)
    if copy:
        return _load_copy(source, Path(copy).expanduser(), columns)
    if root:
        return _load_copy(source, find_copy(Path(root).expanduser(), source), columns)
    if source in CATALOG:
        return load_catalogued(CATALOG[source])
    path = Path(source).expanduser()
    if source and path.is_dir():
        return _load_directory(path, columns)
    if path.suffix == ".parquet" and path.is_file():
        return load_parquet(path, columns)
    if path.is_file():
        raise DataError(f"{source} is a file, but not a parquet file.", LAYOUT_HINT)
    if _HUB_ID.fullmatch(source):
        return load_hub(source, columns)
    raise DataError(
        f"There is no folder, catalogue name or Hub id '{source}'.", did_you_mean(source, [SHAPES, *CATALOG])
    )


def _load_copy(name: str, path: Path, columns: Columns) -> ImageDataset:
    """A local copy, with the class names and the prompt that the catalogue has for the name."""
    entry = catalogued(name)
    if entry is None:
        return _load_directory(path, columns)
    is_parquet = bool(parquet_files(path))
    found = load_catalogued_parquet(entry, path, columns) if is_parquet else _load_directory(path, columns)
    readable = entry.readable(found, str(path))
    return replace(readable, name=entry.name, prompt_template=entry.prompt_template)


def _load_directory(path: Path, columns: Columns, *, partial: bool = False) -> ImageDataset:
    if not path.exists():
        raise DataError(f"There is no {path}.", "Pass the path of a folder of images or of parquet files.")
    if path.is_file() and path.suffix != ".parquet":
        raise DataError(f"{path} is a file, but not a parquet file.", LAYOUT_HINT)
    try:
        if path.is_file() or parquet_files(path):
            return load_parquet(path, columns, partial=partial)
        return load_folder(path, partial=partial)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error}", "Check that you have permission to read the folder.") from error


def _takes_columns(source: str, root: str, copy: str) -> bool:
    """Whether column options apply: to parquet and Hub ids, whose columns are not known in advance."""
    if source == SHAPES or (source in CATALOG and not root and not copy):
        return False
    path = find_copy(Path(root).expanduser(), source) if root and not copy else Path(copy or source).expanduser()
    return not path.is_dir() or bool(parquet_files(path))


def _shapes(wanted: list[str], seed: int) -> ImageDataset:
    from feddtl.data.shapes import shapes_dataset

    return shapes_dataset(wanted, seed=seed) if wanted else shapes_dataset(seed=seed)


def _keep_domains(dataset: ImageDataset, wanted: list[str]) -> ImageDataset:
    """The data set restricted to some of its domains, in its own order; case in names is ignored."""
    if not wanted:
        return dataset
    if dataset.domain_names == ("all",):
        raise DataError(f"{dataset.name} has no domains to choose from.", "Omit the option 'domains'.")
    by_key = {_key(name): i for i, name in enumerate(dataset.domain_names)}
    for name in wanted:
        if _key(name) not in by_key:
            raise DataError(f"{dataset.name} has no domain '{name}'.", did_you_mean(name, dataset.domain_names))
    kept = sorted({by_key[_key(name)] for name in wanted})
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


def _key(name: str) -> str:
    return name.casefold().replace("_", " ")
