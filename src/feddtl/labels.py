"""Labels for what a table or a figure sets side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def told_apart(titles: Sequence[str], values: Sequence[Mapping[str, Any]]) -> list[str]:
    """Titles, those that are equal with the settings in which they differ: 'FedDTL, lora.rank 8'.

    Args:
        titles: One for each.
        values: The settings of each by dotted key, the same keys for all.
    """
    told = []
    for title, own in zip(titles, values, strict=True):
        rivals = [other for rival, other in zip(titles, values, strict=True) if rival == title]
        different = [key for key in own if any(other[key] != own[key] for other in rivals)]
        told.append(", ".join([title, *(f"{key} {own[key]}" for key in different)]))
    return told
