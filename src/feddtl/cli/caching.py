"""`feddtl cache`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from feddtl.cli.commands import Cache
from feddtl.errors import ConfigError
from feddtl.models.cache.folder import CacheEntry, cache_contents, cache_folder, clear_cache
from feddtl.models.kernel_choice import REMEMBERED
from feddtl.models.model_record import MODELS
from feddtl.storage import json_text
from feddtl.units import duration, size


def cache(command: Cache) -> int:
    """Print what the cache holds, or remove it."""
    folder = cache_folder(command.folder)
    if folder is None:
        raise ConfigError("The cache is 'off'.", "Name a folder: feddtl cache --compute.cache-folder DIR.")
    if command.clear:
        freed = clear_cache(folder)
        for remembered in (REMEMBERED, MODELS):
            (folder / remembered).unlink(missing_ok=True)
        found = json_text({"folder": str(folder), "freed_bytes": freed})
        print(found if command.json else f"freed {size(freed)} in {folder}")
        return 0
    entries = cache_contents(folder)
    if command.json:
        content = [{**asdict(entry), "path": str(entry.path)} for entry in entries]
        print(json_text({"folder": str(folder), "contents": content}), end="")
        return 0
    _print(folder, entries)
    return 0


def _print(folder: Path, entries: list[CacheEntry]) -> None:
    console = Console()
    if entries:
        console.print(_table(entries))
    total = size(sum(entry.nbytes for entry in entries))
    console.print(f"{total} in {folder}", highlight=False, soft_wrap=True, markup=False)


def _table(entries: list[CacheEntry]) -> Table:
    table = Table()
    for heading in ("model", "kept", "precision", "images", "size", "last used"):
        table.add_column(heading, justify="right" if heading in ("images", "size") else "left")
    for entry in entries:
        identity = entry.identity
        block, blocks = identity.get("block"), identity.get("blocks")
        kept = "final features" if block == blocks else f"input of block {block} of {blocks}"
        table.add_row(
            str(identity.get("name", "?")),
            kept if identity else "?",
            str(identity.get("stored", "?")),
            str(entry.images),
            size(entry.nbytes),
            f"{duration(max(0.0, time.time() - entry.last_used))} ago",
        )
    return table
