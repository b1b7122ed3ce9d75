"""The splits that a data set's README.md gives its files, as the `datasets` library reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from feddtl.data.split_names import split_of
from feddtl.errors import DataError

CARD = "README.md"


def require_splits_of_card(root: Path, files: Sequence[Path], trained: Sequence[Path]) -> None:
    """Raise DataError if README.md and the names of files disagree about which of them are training files.

    Args:
        root: Folder of the data set.
        files: All its files.
        trained: Those that are training files by their names.
    """
    for split, pattern in _patterns(root / CARD):
        for file in files:
            if not fnmatchcase(file.relative_to(root).as_posix(), pattern):
                continue
            if (split_of(split) == "train") != (file in trained):
                taken = "a training file" if file in trained else "no training file"
                raise DataError(
                    f"{root / CARD} puts {file.name} into the split '{split}', but by its name it is {taken}.",
                    f"Rename the file, for example to {split_of(split) or 'test'}-0.parquet, or correct {CARD}.",
                )


def _patterns(card: Path) -> Iterator[tuple[str, str]]:
    """Splits and patterns of file names from `configs` in the head of a README.md; none if it says nothing of files."""
    if not card.is_file():
        return
    from huggingface_hub import metadata_load

    try:
        head = metadata_load(card) or {}
    except Exception:  # the library's own loader of local files does not read the card either
        return
    for configuration in _listed(head.get("configs")):
        files = configuration.get("data_files") if isinstance(configuration, dict) else None
        if isinstance(files, dict):
            files = [{"split": split, "path": path} for split, path in files.items()]
        for entry in _listed(files):
            if isinstance(entry, dict) and isinstance(entry.get("split"), str):
                yield from ((entry["split"], path) for path in _listed(entry.get("path")) if isinstance(path, str))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
