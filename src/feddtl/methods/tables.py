"""The settings of all methods in one experiment: a table for each method that has settings of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from feddtl.methods.catalog import METHODS, method_entry, settings_table


def settings_types(method: str = "") -> dict[str, type[Any]]:
    """Type of the settings in each table: of the methods of the catalogue, and of a user's own method."""
    names = [*METHODS, *([method] if method else [])]
    types = {settings_table(name): method_entry(name).settings for name in names}
    return {table: kind for table, kind in types.items() if kind.__dataclass_fields__}


@dataclass(frozen=True)
class MethodTables:
    """Settings by table; a table that is absent has its defaults.

    Attributes:
        tables: (name, settings) pairs, sorted by name, so that equal settings are equal.
    """

    tables: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def from_mapping(cls, tables: Mapping[str, Any]) -> MethodTables:
        """The tables that differ from their defaults."""
        return cls(tuple(sorted((name, own) for name, own in tables.items() if own != type(own)())))

    def of(self, method: str) -> Any:
        """The settings of a method."""
        return dict(self.tables).get(settings_table(method)) or method_entry(method).settings()

    def all(self, method: str) -> dict[str, Any]:
        """Settings of every table that an experiment with this method may have, by name."""
        changed = dict(self.tables)
        return {name: changed.get(name) or kind() for name, kind in settings_types(method).items()}
