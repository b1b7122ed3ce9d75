"""The safetensors files of a model: tensors read one at a time, as they are needed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from feddtl.models.digests import tensor_digest

WEIGHTS = "model.safetensors"
# Where the weights are in several files: which tensor is in which.
INDEX = "model.safetensors.index.json"


class WeightFiles:
    """Tensors by name, in one file or several.

    Args:
        folder: Of the model.

    Attributes:
        files: In order of their names.
        shapes: Of all tensors.
    """

    def __init__(self, folder: Path) -> None:
        names = [WEIGHTS]
        if (folder / INDEX).is_file():
            names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        self.files = tuple(folder / name for name in names)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._file_of: dict[str, Path] = {}
        for file in self.files:
            with safe_open(file, framework="pt") as content:
                for name in content.keys():  # noqa: SIM118 - it is no dictionary
                    self.shapes[name] = tuple(content.get_slice(name).get_shape())
                    self._file_of[name] = file

    def fit(self, wanted: Mapping[str, Tensor]) -> bool:
        """Whether the files hold every wanted tensor in its shape; that they hold more does no harm."""
        return all(self.shapes.get(name) == tuple(tensor.shape) for name, tensor in wanted.items())

    def read(self, names: Collection[str]) -> dict[str, Tensor]:
        """Tensors in float32.

        Those that are float32 in the file are mapped: pages that nothing uses take no memory.
        """
        return {name: tensor.float() for name, tensor in self._each(names)}

    def digests(self, names: Collection[str]) -> dict[str, str]:
        """`tensor_digest` of these tensors in float32; none is kept in memory."""
        with ThreadPoolExecutor() as pool:
            return dict(zip(names, pool.map(self._digest, names), strict=True))

    def _digest(self, name: str) -> str:
        # Opened anew for each tensor, so that its pages are given back with it.
        [(_, tensor)] = self._each([name])
        return tensor_digest(tensor.float())

    def _each(self, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        for file in self.files:
            inside = [name for name in names if self._file_of[name] == file]
            if inside:
                with safe_open(file, framework="pt") as content:
                    for name in inside:
                        yield name, content.get_tensor(name)


def open_weights(folder: Path) -> WeightFiles | None:
    """The safetensors files of a model; None where it has none, or damaged ones."""
    try:
        return WeightFiles(folder)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
