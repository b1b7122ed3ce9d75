"""Local copies of data sets: a folder with one sub-folder per data set, found by name."""

from __future__ import annotations

from pathlib import Path

from feddtl.data.catalog import CATALOG, CatalogEntry
from feddtl.errors import DataError


def find_copy(root: Path, name: str) -> Path:
    """Sub-folder of `root` for a data set; case and punctuation are ignored: `Office-Caltech-10` is `officecaltech10`.

    Raises:
        DataError: There is no such folder, or several sub-folders match.
    """
    if not root.is_dir():
        raise DataError(
            f"data.root = '{root}' is not a folder.", "Set it to a folder with one sub-folder per data set."
        )
    try:
        folders = [entry for entry in sorted(root.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"Cannot read {root}: {error}", "Check that you have permission to read the folder.") from error
    found = [folder for folder in folders if _key(folder.name) == _key(name)]
    if len(found) > 1:
        listed = ", ".join(folder.name for folder in found)
        raise DataError(f"{root} has several sub-folders for '{name}': {listed}.", "Rename all but one.")
    if not found:
        listed = ", ".join(folder.name for folder in folders) or "none"
        raise DataError(
            f"{root} has no sub-folder for the data set '{name}'. Its sub-folders: {listed}.",
            f"Put parquet files or images into {root / name}, or omit --data.root to use the Hub.",
        )
    return found[0]


def catalogued(name: str) -> CatalogEntry | None:
    """The catalogue's entry for a name, ignoring case and punctuation; None if there is none."""
    return next((entry for entry in CATALOG.values() if _key(entry.name) == _key(name)), None)


def _key(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())
