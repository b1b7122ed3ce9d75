"""The safetensors files of a model, with their settings and hashes, which the cache folder stores for later processes.

Reading a model's settings requires transformers, which takes longer to import than a small client trains, and hashing
reads all bytes of the weights. A stored entry is valid while the names, sizes and times of the files are the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from feddtl.errors import ModelError
from feddtl.models.digests import digest_each
from feddtl.models.remembered import read_remembered, remember

WEIGHTS = "model.safetensors"
# Names the file of each tensor if there are several files.
INDEX = "model.safetensors.index.json"
MODELS = "models.json"
# Raised when the format of an entry in MODELS changes.
FORMAT = 1
DESCRIBED = (".json", ".safetensors")

ModelSettings = dict[str, Any]


class ModelFiles:
    """Tensors by name, in one file or several, and their hashes and settings.

    Args:
        folder: Of the model.
        described: Size and time by name of the files that a stored entry depends on.
        remembered_in: The cache folder; None: nothing is stored.
    """

    def __init__(self, folder: Path, described: dict[str, list[int]], remembered_in: Path | None) -> None:
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._file_of: dict[str, Path] = {}
        names = [WEIGHTS]
        if (folder / INDEX).is_file():
            names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        for file in (folder / name for name in names):
            with safe_open(file, framework="pt") as content:
                for name in content.keys():  # noqa: SIM118 - it is not a dictionary
                    self._shapes[name] = tuple(content.get_slice(name).get_shape())
                    self._file_of[name] = file
        self._folder = str(folder.resolve())
        self._record = None if remembered_in is None else remembered_in / MODELS
        self._stamp: dict[str, Any] = {"format": FORMAT, "files": described, "transformers": version("transformers")}

    def fit(self, wanted: Mapping[str, Tensor]) -> bool:
        """Whether the files contain every wanted tensor in its shape; they may contain more."""
        return all(self._shapes.get(name) == tuple(tensor.shape) for name, tensor in wanted.items())

    def read(self, names: Collection[str]) -> dict[str, Tensor]:
        """Tensors in float32. Those that are float32 in the file are mapped, and unused pages take no memory."""
        with ExitStack() as stack:
            files = {self._file_of[name] for name in names}
            opened = {file: stack.enter_context(safe_open(file, framework="pt")) for file in files}
            return {name: opened[self._file_of[name]].get_tensor(name).float() for name in names}

    def settings(self, read: Callable[[], ModelSettings]) -> ModelSettings:
        """The model's settings as JSON. `read` is called if they are not stored."""
        entry = self._entry
        if "settings" not in entry:
            entry["settings"] = read()
            remember(self._record, self._folder, entry)
        settings: ModelSettings = entry["settings"]
        return settings

    def digests(self, names: Collection[str]) -> dict[str, str]:
        """`tensor_digest` of tensors in float32, computed if it is not stored."""
        entry = self._entry
        digests: dict[str, str] = entry.setdefault("digests", {})
        if missing := [name for name in names if name not in digests]:
            # Each tensor is read alone, so that its memory is freed with it.
            digests |= digest_each(missing, lambda name: self.read([name])[name])
            remember(self._record, self._folder, entry)
        return {name: digests[name] for name in names}

    @cached_property
    def _entry(self) -> dict[str, Any]:
        """The stored entry; a new one if there is none or it describes other files."""
        entry = read_remembered(self._record).get(self._folder)
        if isinstance(entry, dict) and all(entry.get(key) == value for key, value in self._stamp.items()):
            return entry
        return dict(self._stamp)


def open_model_files(folder: Path, remembered_in: Path | None) -> ModelFiles | None:
    """The safetensors files of a model; None if there are none or they are damaged.

    Raises:
        ModelError: The folder cannot be listed.
    """
    try:
        status = {path.name: path.stat() for path in sorted(folder.iterdir()) if path.suffix in DESCRIBED}
    except OSError as error:
        raise ModelError(
            f"Cannot read the model folder {folder}: {error.strerror}.", "Check your permissions."
        ) from None
    described = {name: [of.st_size, of.st_mtime_ns] for name, of in status.items()}
    try:
        return ModelFiles(folder, described, remembered_in)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
