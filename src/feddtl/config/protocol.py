"""The data sets of the base-to-novel protocol by name."""

from __future__ import annotations

SHAPES = "shapes"
CATALOGUE = (
    *("cifar10", "cifar100", "eurosat", "tiny-imagenet", "oxford-pets", "flowers102", "caltech101", "caltech256"),
    *("food101", "domainnet", "officecaltech10", "pacs"),
)
"""Short names in `feddtl.data.catalog`."""


def follows_protocol(source: str, root: str = "") -> bool:
    """Whether a source is one of the protocol: generated shapes, or a data set of the catalogue.

    Args:
        source: Name, Hub id or path.
        root: Folder of copies, in which case and punctuation of a name are ignored; empty for none.
    """
    if root and source != SHAPES:
        return alphanumeric(source) in map(alphanumeric, CATALOGUE)
    return source in (SHAPES, *CATALOGUE)


def alphanumeric(name: str) -> str:
    """Equal for names that differ only in case and punctuation."""
    return "".join(filter(str.isalnum, name.casefold()))
