"""`feddtl cache`."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from feddtl.cli.command import Command
from feddtl.cli.flags import STATED
from feddtl.cli.printing import print_json, print_text
from feddtl.errors import ConfigError
from feddtl.units import duration, size

if TYPE_CHECKING:
    from rich.table import Table

    from feddtl.models.cache.folder import CacheEntry


@dataclass(frozen=True)
class Cache(Command):
    """Show or remove the cached activations of the frozen blocks."""

    clear: bool = False
    """Remove all of it, and the measurements that chose precision and kernels; active runs are not disturbed."""
    folder: Annotated[str, tyro.conf.arg(name="compute.cache-folder", metavar="DIR", help_behavior_hint=STATED)] = ""
    """The cache; default: FEDDTL_CACHE or ~/.cache/feddtl."""
    json: bool = False
    """Print the contents as JSON."""

    def opening(self) -> str:
        return "" if self.json else "looking at the cache …"

    def execute(self) -> int:
        """Print the contents of the cache, or remove them."""
        from feddtl.models.cache.folder import cache_folder

        folder = cache_folder(self.folder)
        if folder is None:
            raise ConfigError(
                "There is no cache: it is 'off', or this user has no home folder.",
                "Choose a folder: `feddtl cache --compute.cache-folder DIR`.",
            )
        if self.clear:
            _clear(folder, as_json=self.json)
        else:
            _show(folder, as_json=self.json)
        return 0


def _clear(folder: Path, *, as_json: bool) -> None:
    from feddtl.models.cache.folder import clear_cache
    from feddtl.models.kernel_choice import REMEMBERED
    from feddtl.models.model_files import MODELS

    freed = clear_cache(folder)
    for remembered in (REMEMBERED, MODELS):
        (folder / remembered).unlink(missing_ok=True)
    if as_json:
        print_json({"folder": str(folder), "freed_bytes": freed})
    else:
        print_text(f"freed {size(freed)} in {folder}")


def _show(folder: Path, *, as_json: bool) -> None:
    from rich.console import Console

    from feddtl.models.cache.folder import cache_contents

    entries = cache_contents(folder)
    if as_json:
        content = [{**asdict(entry), "path": str(entry.path)} for entry in entries]
        print_json({"folder": str(folder), "contents": content})
        return
    if entries:
        Console().print(_table(entries))
    print_text(f"{size(sum(entry.nbytes for entry in entries))} in {folder}")


def _table(entries: list[CacheEntry]) -> Table:
    from rich.table import Table

    from feddtl.cli.scores import cell

    table = Table()
    for heading in ("Model", "Input of", "Precision", "Images", "Size", "Last used"):
        table.add_column(heading, justify="right" if heading in ("Images", "Size", "Last used") else "left")
    for entry in entries:
        identity = entry.identity
        block, blocks = identity.get("block"), identity.get("blocks")
        kept = "the head" if block == blocks else f"block {block}/{blocks}"
        table.add_row(
            cell(str(identity.get("name", "?"))),
            cell(kept if identity else "?"),
            cell(str(identity.get("stored", "?"))),
            f"{entry.images:,}",
            size(entry.nbytes),
            _ago(time.time() - entry.last_used),
        )
    return table


def _ago(seconds: float) -> str:
    """'5 min ago': without the smaller unit, so that a row fits 80 columns."""
    return f"{' '.join(duration(max(seconds, 0.0)).split()[:2])} ago"
