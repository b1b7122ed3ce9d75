"""The rows of several parquet files as one table, in which labels keep their meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feddtl.data.columns import LABEL_COLUMNS, is_image, listed_names, stores_text
from feddtl.data.file_tree import lines_of
from feddtl.errors import DataError
from feddtl.state_folder import require_hub_cache
from feddtl.units import counted

if TYPE_CHECKING:
    import datasets

COMPLETE = "Check that the file is complete and in parquet format."


def read_shards(files: Sequence[Path], labels: Sequence[str] = ()) -> datasets.Dataset:
    """One split. Files whose columns differ in type are read one by one: together, all take the types of the first.

    A label is a position in the list of class names of its own file. Where lists differ, labels are matched by name.

    Args:
        files: At least one file.
        labels: Columns that contain classes, apart from those with the usual names.

    Raises:
        DataError: Files cannot be read, or a column of classes has names in one and none in another.
    """
    import datasets as hf

    features = _features_of(files)
    groups = [[file for file, _ in group] for _, group in groupby(features.items(), key=_number_of_first(features))]
    parts = [_read(group) for group in groups]
    if len(parts) == 1:
        return parts[0]
    names = [group[0].name for group in groups]
    shared = [column for column in parts[0].features if all(column in part.features for part in parts)]
    usual = () if any(column in shared for column in LABEL_COLUMNS) else LABEL_COLUMNS
    for column in (*labels, *usual):
        having = [name for name, part in zip(names, parts, strict=True) if column in part.features]
        if having and column not in shared:
            lacking = next(name for name in names if name not in having)
            raise DataError(f"{lacking} has no column '{column}', which {having[0]} has.", "Save all files alike.")
    parts = [part.select_columns(shared) for part in parts]
    with _no_progress_bars():
        for column in shared:
            parts = _aligned(parts, column, names, is_label=column in (*LABEL_COLUMNS, *labels))
    kept = [column for column in shared if all(column in part.features for part in parts)]
    return hf.concatenate_datasets([part.select_columns(kept) for part in parts])


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Within the block the datasets library draws none, because the command line draws its own."""
    import datasets as hf

    were_hidden = hf.are_progress_bars_disabled()
    hf.disable_progress_bars()
    try:
        yield
    finally:
        if not were_hidden:
            hf.enable_progress_bars()


def load_quietly(failure: str, hint: str, source: str, **options: Any) -> Any:
    """What the loader returns, without its progress bars."""
    require_hub_cache()
    import datasets as hf

    try:
        with _no_progress_bars():
            return hf.load_dataset(source, **options)
    # The loader passes on errors of pyarrow, the network, the Hub, its cache and the file system, and its own.
    except Exception as error:
        # Only this error's cause says what is wrong with a file.
        cause = error.__cause__ if isinstance(error, hf.exceptions.DatasetGenerationError) else None
        _check_cache(cause or error)
        lines = str(cause or error).splitlines()
        raise DataError(f"{failure}: {lines[0] if lines else type(cause or error).__name__}", hint) from error


def _check_cache(error: BaseException) -> None:
    """Raise DataError if it is the loader's cache, and not a file of the user, that cannot be written."""
    import datasets as hf

    cache = str(hf.config.HF_DATASETS_CACHE)
    named = [str(name) for name in (getattr(error, "filename", None), getattr(error, "filename2", None)) if name]
    full = isinstance(error, OSError) and "space" in str(error).lower()
    above = [str(folder) for folder in (Path(cache), *Path(cache).parents[:-1])]
    if full or any(name.startswith(cache) or name in above for name in named):
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"The cache in which the datasets library unpacks parquet files, {cache}, cannot be written: {reason}.",
            "Set HF_HOME (or HF_DATASETS_CACHE alone) to a folder that can be written and has space.",
        ) from error


def _features_of(files: Sequence[Path]) -> dict[Path, datasets.Features]:
    """Columns and types of each file that has rows. Raises DataError naming all files that cannot be read."""
    import datasets as hf
    import pyarrow.parquet as pq

    found, damaged = {}, {}
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                if opened.metadata.num_rows:
                    found[file] = hf.Features.from_arrow_schema(opened.schema_arrow)
        # pyarrow and the library raise errors of many kinds on damaged files and odd metadata.
        except Exception as error:
            damaged[file] = (str(error).splitlines() or [type(error).__name__])[0]
    if len(damaged) == 1:
        file, reason = next(iter(damaged.items()))
        raise DataError(f"Cannot read {file}: {reason}", COMPLETE)
    if damaged:
        listed = lines_of([f"{file}: {reason}" for file, reason in damaged.items()])
        raise DataError(f"Cannot read {counted(len(damaged), 'parquet file')}:{listed}", COMPLETE)
    if not found:
        raise DataError(f"{files[0]} has no rows.", "Use files with images.")
    return found


def _number_of_first(features: dict[Path, datasets.Features]) -> Callable[[tuple[Path, datasets.Features]], int]:
    """For each file, the number of the first one with the same columns and types."""
    known = list(features.values())
    return lambda item: known.index(item[1])


def _read(files: Sequence[Path]) -> datasets.Dataset:
    names = [str(file) for file in files]
    failure = f"Cannot read {names[0]}" if len(names) == 1 else f"Cannot read one of {names[0]} to {names[-1]}"
    return load_quietly(failure, COMPLETE, "parquet", data_files={"train": names}, split="train")


def _aligned(
    parts: list[datasets.Dataset], column: str, names: Sequence[str], *, is_label: bool
) -> list[datasets.Dataset]:
    """The parts with the same type in a column, or without the column if it is of no use and cannot have one type."""
    import datasets as hf

    features = [part.features[column] for part in parts]
    if all(feature == features[0] for feature in features):
        return parts
    if all(map(is_image, features)):
        return [part.cast_column(column, hf.Image(decode=False)) for part in parts]
    named = [listed_names(feature) for feature in features]
    if all(named):
        return _with_names(parts, column, named)
    if all(own or stores_text(feature) for own, feature in zip(named, features, strict=True)):
        return [_as_text(part, column, own) for part, own in zip(parts, named, strict=True)]
    if any(named) or (is_label and any(map(stores_text, features))):
        speaking = next(at for at, own in enumerate(named) if own or stores_text(features[at]))
        silent = next(at for at, own in enumerate(named) if not (own or stores_text(features[at])))
        raise DataError(
            f"The column '{column}' has names in {names[speaking]}, and {_type_of(features[silent])} in "
            f"{names[silent]}, so it is not known which class is meant.",
            "Save the column of all files as ClassLabel with names, or as text.",
        )
    try:
        return [part.cast_column(column, features[0]) for part in parts]
    except Exception:  # pyarrow raises errors of many kinds; such a column is neither images nor classes
        return [part.remove_columns(column) for part in parts]


def _with_names(parts: list[datasets.Dataset], column: str, named: list[list[str]]) -> list[datasets.Dataset]:
    """The parts with one list of class names: the first, or if others have more names, all in alphabetical order."""
    import datasets as hf

    everything = {name for own in named for name in own}
    names = named[0] if set(named[0]) == everything else sorted(everything)
    ids = {name: i for i, name in enumerate(names)}

    def renumbered(part: datasets.Dataset, own: list[str]) -> datasets.Dataset:
        values = [_position(value, own, ids) for value in part[column][:]]
        return part.remove_columns(column).add_column(column, values).cast_column(column, hf.ClassLabel(names=names))

    return [renumbered(part, own) for part, own in zip(parts, named, strict=True)]


def _position(value: int | None, own: list[str], ids: dict[str, int]) -> int | None:
    """A label in the joint list; None, which is refused later, for one that is in no list."""
    return ids[own[value]] if value is not None and 0 <= value < len(own) else None


def _as_text(part: datasets.Dataset, column: str, names: Sequence[str]) -> datasets.Dataset:
    import datasets as hf

    if not names:
        return part.cast_column(column, hf.Value("string"))
    values = [names[value] if value is not None and 0 <= value < len(names) else None for value in part[column][:]]
    return part.remove_columns(column).add_column(column, values).cast_column(column, hf.Value("string"))


def _type_of(feature: Any) -> str:
    kind = str(getattr(feature, "dtype", type(feature).__name__))
    return "whole numbers" if kind.startswith(("int", "uint")) else kind
