"""What was read of a model's files once, for the processes that come after: settings and hashes of its weights.

Reading the settings takes transformers, which takes longer to import than a small client trains, and hashing takes all
bytes of the weights. Both are remembered in the cache folder under the model's folder, and hold as long as the names,
sizes and times of its files stay the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

from feddtl.errors import ModelError
from feddtl.models.digests import Digests
from feddtl.models.remembered import read_remembered, remember

MODELS = "models.json"
# Of an entry: another format is another entry.
FORMAT = 1
DESCRIBED = (".json", ".safetensors")

Settings = dict[str, Any]


class ModelRecord:
    """What is known of the files of a model.

    Args:
        folder: Of the model.
        remembered_in: The cache folder; None: nothing is remembered.

    Raises:
        ModelError: The folder cannot be listed.
    """

    def __init__(self, folder: Path, remembered_in: Path | None) -> None:
        self._folder = str(folder.resolve())
        self._file = None if remembered_in is None else remembered_in / MODELS
        try:
            found = {path.name: path.stat() for path in sorted(folder.iterdir()) if path.suffix in DESCRIBED}
        except OSError as error:
            raise ModelError(
                f"Cannot read the model folder {folder}: {error.strerror}.", "Check your permissions."
            ) from None
        self._files = {name: [status.st_size, status.st_mtime_ns] for name, status in found.items()}

    def settings(self, read: Callable[[], Settings]) -> Settings:
        """Settings as JSON, read where they are not known."""
        known = self._known()
        if "settings" not in known:
            known["settings"] = read()
            self._keep(known)
        settings: Settings = known["settings"]
        return settings

    def digests(self, compute: Digests) -> Digests:
        """Hashes of weights; those that are not known are computed."""

        def of(names: Collection[str]) -> dict[str, str]:
            known = self._known()
            digests: dict[str, str] = known.setdefault("digests", {})
            if missing := [name for name in names if name not in digests]:
                digests |= compute(missing)
                self._keep(known)
            return {name: digests[name] for name in names}

        return of

    @property
    def _stamp(self) -> dict[str, Any]:
        return {"format": FORMAT, "files": self._files, "transformers": version("transformers")}

    def _known(self) -> dict[str, Any]:
        entry = read_remembered(self._file).get(self._folder)
        if isinstance(entry, dict) and all(entry.get(key) == value for key, value in self._stamp.items()):
            return entry
        return {}

    def _keep(self, known: dict[str, Any]) -> None:
        remember(self._file, self._folder, {**known, **self._stamp})
