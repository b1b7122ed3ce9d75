"""A model's settings and hashes of its weights, stored in the cache folder for later processes.

Reading the settings requires transformers, which takes longer to import than a small client trains, and hashing reads
all bytes of the weights. Entries are valid as long as the names, sizes and times of the model's files are the same.
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
# Raised when the format of an entry changes.
FORMAT = 1
DESCRIBED = (".json", ".safetensors")

Settings = dict[str, Any]


class ModelRecord:
    """What is known about the files of a model.

    Args:
        folder: Of the model.
        remembered_in: The cache folder; None: nothing is stored.

    Raises:
        ModelError: The folder cannot be listed.
    """

    def __init__(self, folder: Path, remembered_in: Path | None) -> None:
        self._folder = str(folder.resolve())
        self._file = None if remembered_in is None else remembered_in / MODELS
        try:
            status = {path.name: path.stat() for path in sorted(folder.iterdir()) if path.suffix in DESCRIBED}
        except OSError as error:
            raise ModelError(
                f"Cannot read the model folder {folder}: {error.strerror}.", "Check your permissions."
            ) from None
        files = {name: [of.st_size, of.st_mtime_ns] for name, of in status.items()}
        self._stamp: dict[str, Any] = {"format": FORMAT, "files": files, "transformers": version("transformers")}

    def settings(self, read: Callable[[], Settings]) -> Settings:
        """Settings as JSON. `read` is called if they are not known."""
        known = self._known()
        if "settings" not in known:
            known["settings"] = read()
            remember(self._file, self._folder, known)
        settings: Settings = known["settings"]
        return settings

    def digests(self, compute: Digests) -> Digests:
        """Hashes of weights. `compute` is called for those that are not known."""

        def digests(names: Collection[str]) -> dict[str, str]:
            known = self._known()
            found: dict[str, str] = known.setdefault("digests", {})
            if missing := [name for name in names if name not in found]:
                found |= compute(missing)
                remember(self._file, self._folder, known)
            return {name: found[name] for name in names}

        return digests

    def _known(self) -> dict[str, Any]:
        """The entry of these files; a new one if it is missing or describes other files."""
        entry = read_remembered(self._file).get(self._folder)
        if isinstance(entry, dict) and all(entry.get(key) == value for key, value in self._stamp.items()):
            return entry
        return dict(self._stamp)
