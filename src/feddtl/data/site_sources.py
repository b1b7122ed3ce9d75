"""The sites of a source: a sub-folder each, or the rows of a table that name the same site."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from feddtl.config import DataConfig
from feddtl.config.data import SITES
from feddtl.config.names import composed
from feddtl.data.catalog import CATALOG
from feddtl.data.columns import find_site_column, read_sites
from feddtl.data.file_tree import Leftovers, entries, is_image
from feddtl.data.folders import subfolders
from feddtl.data.hub import HubReader, Splits, open_hub, open_parquet
from feddtl.data.image_files import visible
from feddtl.data.sources import columns_of, completed, load_dataset, local_path
from feddtl.data.split_names import is_bare_split
from feddtl.data.table import ImageDataset, ImageTable, Indices
from feddtl.errors import DataError
from feddtl.notes import Warned

SITES_HINT = "Put the images of each site into a folder, ROOT/SITE/CLASS/*.jpg or ROOT/SITE/train/CLASS/*.jpg."
OTHER_PARTITION = "or choose another data.partition, such as 'non-iid', which divides the images among clients"


@dataclass(frozen=True)
class SiteSources:
    """The sites of a source, unread.

    Attributes:
        name: Short name of the source.
        where: Its path or id, for errors.
        read: By the site's name, reads all its images; sites are in the order of their clients.
        notes: What the user should know.
    """

    name: str
    where: str
    read: Mapping[str, Callable[[DataConfig], ImageDataset]]
    notes: tuple[str, ...] = ()


def find_sites(config: DataConfig, copy: str = "") -> SiteSources:
    """The sites of a source in the order of their names, which is that of their clients.

    Args:
        config: Where they are.
        copy: Path of a copy on this machine, which replaces the source.

    Raises:
        DataError: The source has no sites, or two of them cannot be told apart.
    """
    path = local_path(config.source, config.root, copy)
    try:
        if path is None:
            found = _sites_of_hub(config)
        elif path.is_file() or _is_table(path):
            columns = replace(columns_of(config), site=config.site_column)
            found = _sites_of_table(open_parquet(path, columns))
        else:
            found = _sites_of_folder(path, config.site_column)
    except OSError as error:
        raise DataError(
            f"Cannot read the sites of {path}: {error}", "Check that you have permission to read the folder."
        ) from error
    _check_names(found)
    return found


@contextmanager
def named_site(site: str) -> Iterator[None]:
    """Within the block each DataError names the site."""
    try:
        yield
    except DataError as error:
        raise DataError(of_site(site, error.message), error.hint) from error


def of_site(site: str, text: str) -> str:
    """A sentence about a site, with its name once: "Site 'north' has …", "Site 'north': The image …"."""
    rest = text.removeprefix(f"{site} ")
    named = f"Site '{site}': {text}" if rest == text else f"Site '{site}' {rest}"
    return Warned(named) if isinstance(text, Warned) else named


def _sites_of_hub(config: DataConfig) -> SiteSources:
    if config.source in CATALOG:
        raise DataError(
            f"'{config.source}', a data set of the catalogue, has no sites, which data.partition = '{SITES}' needs.",
            "Choose another data.partition; 'domain' makes each domain a client.",
        )
    return _sites_of_table(open_hub(config.source, replace(columns_of(config), site=config.site_column)))


def _is_table(root: Path) -> bool:
    """Whether the folder itself contains parquet files, or has them in data/ alone; a site may have its own."""
    folders = subfolders(root)
    here = _parquet_in(root)
    if here and (beside := [folder.name for folder in folders if folder.name != "data"]):
        raise DataError(
            f"{root} has both parquet files ({here[0].name}) and folders ({', '.join(beside[:3])}), so it is not clear "
            "what its sites are.",
            "Pass the parquet file itself, or move it out of the folder.",
        )
    return bool(here) or ([folder.name for folder in folders] == ["data"] and bool(_parquet_in(folders[0])))


def _parquet_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.parquet") if not file.name.startswith("."))


def _sites_of_folder(root: Path, site_column: str) -> SiteSources:
    """Each sub-folder is a site, as if it were the folder of a client."""
    if site_column:
        raise DataError(
            f"{root} has a folder for each site, and no column '{site_column}' (data.site_column).",
            "Omit data.site_column.",
        )
    folders, notes = _folders_of_sites(root)
    by_name: dict[str, Path] = {}
    for folder in folders:
        other = by_name.setdefault(composed(folder.name), folder)
        if other is not folder:
            raise _alike(str(root), f"{other.name!a}", f"{folder.name!a}")
    read = {name: partial(_read_folder, by_name[name]) for name in _in_order(by_name)}
    return SiteSources(root.resolve().name, str(root), read, notes)


def _folders_of_sites(root: Path) -> tuple[list[Path], tuple[str, ...]]:
    """The sub-folders of a root, and notes about what is beside them. Raises DataError if they are no sites."""
    left = Leftovers()
    folders, stray = entries(root, left)
    left.check(root)
    if not folders:
        raise DataError(f"{root} has no folders, so it has no sites.", SITES_HINT)
    for folder in folders:
        _check_folder(folder)
    ignored = Warned(f"Images directly in {root} belong to no site and are ignored: {len(stray)}.") if stray else ""
    return folders, tuple(filter(None, (ignored, left.note(root))))


def _check_folder(folder: Path) -> None:
    """Raise DataError for a folder that is a split or a class, and no site."""
    if is_bare_split(folder.name):
        raise DataError(
            f"{folder} is the folder of a split and not a site: splits belong inside the sites.",
            f"Move the images to SITE/{folder.name}/CLASS/*.jpg, {OTHER_PARTITION}.",
        )
    if any(map(is_image, visible(folder))) and not subfolders(folder):
        raise DataError(
            f"{folder} contains images directly, so it is a folder of one class and not a site, which "
            f"data.partition = '{SITES}' needs.",
            f"Put each site's classes into a folder of its own, ROOT/SITE/CLASS/*.jpg, {OTHER_PARTITION}.",
        )


def _read_folder(folder: Path, config: DataConfig) -> ImageDataset:
    return load_dataset(config, str(folder), partial=True)


def _sites_of_table(table: Splits) -> SiteSources:
    """Each value of a column is a site, whose images are read as if they were in files of their own."""
    column = find_site_column(table.train, table.columns.site, table.where)
    table = replace(table, columns=replace(table.columns, site=column))
    splits = {"train": table.train} | ({} if table.test is None else {"test": table.test})
    rows: dict[str, dict[str, Indices]] = {}
    for split, content in splits.items():
        if column not in content.features:
            raise DataError(f"The test split of {table.where} has no column '{column}'.", "Name the site of each row.")
        names = np.array([composed(name) for name in read_sites(content, column, f"{table.where} ({split})")])
        for name in np.unique(names).tolist():
            rows.setdefault(name, {})[split] = np.flatnonzero(names == name)
    # Read as a whole first, so that an error names the row of the file.
    whole = table.dataset(partial=True)
    read = {name: partial(_read_rows, table, whole, name, rows[name]) for name in _in_order(rows)}
    return SiteSources(table.name, table.where, read, whole.notes)


def _read_rows(
    table: Splits, whole: ImageDataset, site: str, rows: Mapping[str, Indices], config: DataConfig
) -> ImageDataset:
    """The images of a site.

    Args:
        table: The splits of all sites.
        whole: Their images.
        site: The site's name.
        rows: By split, rows of the site.
        config: Which domains and prompt, and how many test images.
    """
    where = f"{table.where}, {table.columns.site} '{site}'"
    if "train" not in rows:
        raise DataError(f"{where} has test images alone ({len(rows['test'])}).", "Add training images.")
    test = table.test.select(rows["test"]) if table.test is not None and "test" in rows else None
    part = replace(table, name=site, where=where, train=table.train.select(rows["train"]), test=test, notes=())
    found = part.dataset(partial=True)
    return completed(
        replace(
            found,
            train=_of_file(found.train, whole.train, rows["train"], site),
            test=_of_file(found.test, whole.test, rows.get("test", np.empty(0, np.int64)), site),
        ),
        config,
        where,
        partial=True,
    )


def _of_file(table: ImageTable, whole: ImageTable, rows: Indices, site: str) -> ImageTable:
    """The same images with the rows that they have in the file, for errors."""
    if not len(table):
        return table
    reader = whole.reader
    if isinstance(reader, HubReader):
        reader = replace(reader, where=f"{reader.where}, site '{site}'")
    return replace(table, reader=reader, rows=rows[table.rows])


def _in_order(names: Iterable[str]) -> list[str]:
    """Names in the order of their clients: numbers by size, other names by letters."""
    found = list(names)
    if all(name.isdecimal() for name in found):
        return sorted(found, key=lambda name: (int(name), name))
    return sorted(found)


def _check_names(found: SiteSources) -> None:
    """Raise DataError for names that a person cannot tell apart or a terminal cannot show."""
    known: dict[str, str] = {}
    for name in found.read:
        if not name.isprintable():
            raise DataError(
                f"The name of the site {name!r} of {found.where} has characters that cannot be printed.", "Rename it."
            )
        key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        if key in known:
            raise _alike(found.where, f"'{known[key]}'", f"'{name}'")
        known[key] = name


def _alike(where: str, one: str, other: str) -> DataError:
    return DataError(
        f"Two sites of {where} differ only in case, blanks or Unicode form: {one} and {other}.",
        "Rename one of them, or merge them if they are the same site.",
    )
