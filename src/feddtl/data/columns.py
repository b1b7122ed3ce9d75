"""Finds the columns of images, classes and domains, and reads the last two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from feddtl.config.names import composed
from feddtl.data.split_folders import AS_SITES
from feddtl.data.split_names import is_bare_split, marked_split
from feddtl.data.table import ONE_DOMAIN, Indices
from feddtl.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import datasets

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "category")
DOMAIN_COLUMN = "domain"
SITE_COLUMN = "site"
MOST_SPLITS = 5  # a column of more different texts says something else


@dataclass(frozen=True)
class Columns:
    """Column names; an empty one is detected.

    Attributes:
        image: Column of images.
        label: Column of classes: ClassLabel or text.
        domain: Column of domains; stays empty if there are none.
        site: Column of sites, only if each client is one; see `find_site_column`.
    """

    image: str = ""
    label: str = ""
    domain: str = ""
    site: str = ""


def find_columns(split: datasets.Dataset, asked: Columns, where: str) -> Columns:
    """Fills in the columns that were not given by name.

    Raises:
        DataError: A given column is missing, or detection finds none or several.
    """
    for kind, name in asdict(asked).items():
        if name and name not in split.features:
            raise DataError(f"{where} has no column '{name}' (the {kind} column).", did_you_mean(name, split.features))
    feature = split.features.get(asked.image)
    if asked.image and not (is_image(feature) or _stores(feature, "binary")):
        raise DataError(
            f"The column '{asked.image}' of {where} does not contain images.",
            f"Its columns are {', '.join(split.features)}; name the one with images, or omit the option.",
        )
    domain = asked.domain or (DOMAIN_COLUMN if DOMAIN_COLUMN in split.features else "")
    label = asked.label or _label_column(split, (domain, asked.site), where)
    return Columns(asked.image or _image_column(split, where), label, domain, asked.site)


def find_site_column(split: datasets.Dataset, asked: str, where: str) -> str:
    """The column that names the site of each row: the given one, or 'site'. Raises DataError if it is not there."""
    name = asked or SITE_COLUMN
    if name in split.features:
        return name
    hint = f"Its columns are {', '.join(split.features)}. Choose the one with the sites with --data.site-column."
    raise DataError(f"{where} has no column '{name}', which would name the site of each row.", hint)


def unused_sites_note(split: datasets.Dataset, known: Columns, where: str) -> str:
    """A note on a column of sites that nobody asked for; '' if there is none, or if it names a single site.

    Args:
        split: The training rows.
        known: All columns that are read.
        where: The source's name.
    """
    used = (known.image, known.label, known.domain)
    name = next((name for name in split.features if name.casefold() == SITE_COLUMN and name not in used), "")
    if known.site or not name or is_image(split.features[name]):
        return ""
    sites, chosen = len(_different(split, name)), "" if name == SITE_COLUMN else f" --data.site-column {name}"
    if sites < 2:
        return ""
    return (
        f"The column '{name}' of {where} has {sites} different values and is not used. If they are sites, with a "
        f"client for each, add {AS_SITES}{chosen}."
    )


def read_sites(split: datasets.Dataset, column: str, where: str) -> list[str]:
    """(N,) names of the sites, from a column of texts, whole numbers or a ClassLabel.

    Raises:
        DataError: The column has other values, or a row names no site.
    """
    feature, values = split.features[column], split[column][:]
    names = getattr(feature, "names", None)
    if not (names or _stores(feature, "string") or str(getattr(feature, "dtype", "")).startswith(("int", "uint"))):
        raise DataError(
            f"The column '{column}' of {where} does not name sites: it has neither texts nor whole numbers.",
            f"Its columns are {', '.join(split.features)}; choose another one with --data.site-column.",
        )
    if names:
        values = [names[value] if value is not None and 0 <= value < len(names) else None for value in values]
    texts = ["" if value is None else " ".join(str(value).split()) for value in values]
    if "" in texts:
        raise DataError(
            f"Row {texts.index('')} of {where} names no site in the column '{column}' ({texts.count('')} such rows).",
            "Name the site of each row, or remove the rows without one.",
        )
    return texts


def read_labels(split: datasets.Dataset, columns: Columns, where: str) -> tuple[Indices, tuple[str, ...]]:
    """(N,) class ids and the class names; text labels become classes in alphabetical order.

    Raises:
        DataError: Integers without names, or images without a label.
    """
    values = split[columns.label][:]
    names = tuple(listed_names(split.features[columns.label]))
    if not names and stores_text(split.features[columns.label]):
        values = [composed(value) if value else None for value in values]
        names = tuple(sorted({value for value in values if value}))
        ids = {name: i for i, name in enumerate(names)}
        values = [ids.get(value) for value in values]
    if not names:
        raise DataError(
            f"The column '{columns.label}' of {where} has classes without names, but CLIP needs names.",
            "Save the column as ClassLabel with names or as text, or choose another one with --data.label-column.",
        )
    missing = [row for row, value in enumerate(values) if value is None or not 0 <= value < len(names)]
    if missing:
        raise DataError(
            f"Row {missing[0]} of {where} has no label, or a label outside its {len(names)} classes "
            f"({len(missing)} such rows).",
            "Remove the rows without a label, or use a split that has labels.",
        )
    return np.array(values, dtype=np.int64), names


def read_domains(splits: Sequence[datasets.Dataset], column: str) -> tuple[list[Indices], tuple[str, ...]]:
    """Per split (N,) domain ids, and the domain names; one domain 'all' if the column is ''."""
    if not column:
        return [np.zeros(len(split), np.int64) for split in splits], ONE_DOMAIN
    texts = [_domain_texts(split, column) for split in splits]
    present = set().union(*texts)
    listed = [name for split in splits for name in listed_names(split.features[column])]
    names = tuple(name for name in dict.fromkeys((*listed, *sorted(present))) if name in present)
    ids = {name: i for i, name in enumerate(names)}
    return [np.array([ids[text] for text in split], dtype=np.int64) for split in texts], names


def _domain_texts(split: datasets.Dataset, column: str) -> list[str]:
    names = getattr(split.features[column], "names", None)
    values = split[column][:]
    if missing := values.count(None):
        raise DataError(
            f"Row {values.index(None)} has no value in the column '{column}' of domains ({missing} such rows).",
            "Name the domain of each row, or remove the rows without one.",
        )
    return [composed(str(names[value]) if names else str(value)) for value in values]


def require_no_split_column(split: datasets.Dataset, known: Columns, where: str) -> None:
    """Refuse rows that a column such as `split` or `is_test` places in a test split: they would be trained on."""
    for name, feature in split.features.items():
        if name in (known.image, known.label, known.site):
            continue
        if stores_text(feature) or listed_names(feature):
            names = getattr(feature, "names", None)
            values = {str(names[value] if names else value) for value in _different(split, name)}
            test = {value for value in values if is_bare_split(value) and marked_split(value) != "train"}
        elif getattr(feature, "dtype", "") == "bool" and is_bare_split(name.removeprefix("is_")):
            values = test = {str(value) for value in _different(split, name)}
        else:
            continue
        others = values - test
        if test and 2 <= len(values) <= MOST_SPLITS and all(map(is_bare_split, others)):
            raise DataError(
                f"The column '{name}' of {where} looks like the split of each row ({', '.join(sorted(values))}), but "
                "splits are read from the names of files: all rows would be training images.",
                "Save the rows of each split in files of their own, train-0.parquet and test-0.parquet; or remove the "
                "column.",
            )


def _different(split: datasets.Dataset, column: str) -> list[Any]:
    """The different values of a column, without missing ones."""
    return [value for value in split.select_columns([column]).unique(column) if value is not None]


def _image_column(split: datasets.Dataset, where: str) -> str:
    found = [name for name, feature in split.features.items() if is_image(feature)]
    if len(found) == 1:
        return str(found[0])
    raise DataError(
        f"{where} has {len(found)} image columns among {', '.join(split.features)}.",
        "Choose one with --data.image-column.",
    )


def listed_names(feature: Any) -> list[str]:
    """The names of a ClassLabel in Unicode's composed form; none for other columns. Files may have numbers as names."""
    return [composed(str(name)) for name in getattr(feature, "names", None) or ()]


def is_image(feature: Any) -> bool:
    """Image feature, or its storage form if the file lacks the Hub's metadata."""
    return type(feature).__name__ == "Image" or (isinstance(feature, dict) and "bytes" in feature)


def _stores(feature: Any, kind: str) -> bool:
    """Whether a column stores this type of Arrow, in arrays of any size."""
    return getattr(feature, "dtype", "") in (kind, f"large_{kind}", f"{kind}_view")


def stores_text(feature: Any) -> bool:
    """Whether a column stores text, of any type of Arrow."""
    return _stores(feature, "string")


def _label_column(split: datasets.Dataset, others: Sequence[str], where: str) -> str:
    usual = [name for name in LABEL_COLUMNS if name in split.features]
    typed: list[str] = [
        name for name, feature in split.features.items() if hasattr(feature, "names") and name not in others
    ]
    if usual:
        return next((name for name in usual if name in typed), usual[0])
    if len(typed) == 1:
        return typed[0]
    raise DataError(
        f"{where} has no column {' or '.join(LABEL_COLUMNS[:3])} among {', '.join(split.features)}.",
        "Choose the class column with --data.label-column.",
    )
