"""Runs as they go on: the page of a folder, drawn again when a round has ended, and what each live run does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from threading import Lock

from feddtl.errors import RunError
from feddtl.report.page import render
from feddtl.results.reading import DEEPEST, Collection, collect, run_folders
from feddtl.run_files import CONFIG, DATA, METRICS, PREDICTIONS, SUMMARY, has_begun
from feddtl.run_status import run_status
from feddtl.storage import is_locked
from feddtl.units import duration, printable

SHOWN = (CONFIG, DATA, METRICS, PREDICTIONS, SUMMARY)


@dataclass
class FollowedRuns:
    """The runs below a folder.

    Attributes:
        folder: A run folder, or one that contains run folders; runs may be added to it at any time.
        images: Whether the page shows test images.
        images_of: Sources whose images may be read, see `feddtl.report.write_report`.
    """

    folder: Path
    images: bool = True
    images_of: Sequence[str] = ()
    _drawn: tuple[str, str] = ("", "")
    _drawing: Lock = field(default_factory=Lock)  # figures are drawn by one thread at a time

    @property
    def version(self) -> str:
        """Changes when a run has begun, a round or a run has ended, or a file has been exchanged."""
        parts = hashlib.sha256()
        for path, name in product(filter(has_begun, self._paths()), SHOWN):
            with suppress(OSError):
                found = (path / name).stat()
                parts.update(f"{path / name} {found.st_mtime_ns} {found.st_size}\n".encode("utf-8", "surrogateescape"))
        return parts.hexdigest()[:16]

    def page(self) -> str:
        """The page of this version, with what the browser needs to follow the runs."""
        with self._drawing:
            version = self.version
            if self._drawn[0] != version:
                self._drawn = version, self._draw(version)
            return self._drawn[1]

    def lines(self) -> list[str]:
        """What each running run does."""
        live = [path for path in self._paths() if is_locked(path) is not False]
        return [line for path in live if (line := self._line(path))] or [
            "No run is running. A run that starts in this folder will appear here."
        ]

    def _draw(self, version: str) -> str:
        # The state of a run that still loads its data is in `lines`; nothing is wrong with it.
        loading = [path for path in self._paths() if not has_begun(path) and is_locked(path)]
        try:
            collected = collect(self.folder, leave_out=loading)
        except RunError as error:
            collected = Collection((), (printable(error.message),) if self._paths() != loading else ())
        return render(collected, images=self.images, images_of=self.images_of, version=version)

    def _line(self, path: Path) -> str:
        """'seed0: round 3 of 20 (sft), about 5 min left'; empty for a run that has ended in the meantime."""
        try:
            found = run_status(path)
            if not found.live:
                return ""
            left = f", about {duration(found.seconds_left)} left" if found.seconds_left else ""
            return printable(f"{path.name or path}: {found.phase}{left}")
        except RunError:
            return ""  # its folder was removed, or its log is being written

    def _paths(self) -> list[Path]:
        return list(_present(self.folder))


def _present(folder: Path) -> Iterator[Path]:
    try:
        yield from run_folders(folder, DEEPEST)
    except RunError:
        return  # a folder that cannot be read; `collect` says so
