"""The safetensors files of a model, from which single tensors are read when they are needed."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from feddtl.models.digests import digest_each

WEIGHTS = "model.safetensors"
# Names the file of each tensor if there are several files.
INDEX = "model.safetensors.index.json"


class WeightFiles:
    """Tensors by name, in one file or several.

    Args:
        folder: Of the model.
    """

    def __init__(self, folder: Path) -> None:
        names = [WEIGHTS]
        if (folder / INDEX).is_file():
            names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._file_of: dict[str, Path] = {}
        for file in (folder / name for name in names):
            with safe_open(file, framework="pt") as content:
                for name in content.keys():  # noqa: SIM118 - it is not a dictionary
                    self._shapes[name] = tuple(content.get_slice(name).get_shape())
                    self._file_of[name] = file

    def fit(self, wanted: Mapping[str, Tensor]) -> bool:
        """Whether the files contain every wanted tensor in its shape; they may contain more."""
        return all(self._shapes.get(name) == tuple(tensor.shape) for name, tensor in wanted.items())

    def read(self, names: Collection[str]) -> dict[str, Tensor]:
        """Tensors in float32. Those that are float32 in the file are mapped, and unused pages take no memory."""
        with ExitStack() as stack:
            files = {self._file_of[name] for name in names}
            opened = {file: stack.enter_context(safe_open(file, framework="pt")) for file in files}
            return {name: opened[self._file_of[name]].get_tensor(name).float() for name in names}

    def digests(self, names: Collection[str]) -> dict[str, str]:
        """`tensor_digest` of tensors in float32. Each is read alone, so that its memory is freed with it."""
        return digest_each(names, lambda name: self.read([name])[name])


def open_weights(folder: Path) -> WeightFiles | None:
    """The safetensors files of a model; None if there are none or they are damaged."""
    try:
        return WeightFiles(folder)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
