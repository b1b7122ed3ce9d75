"""The files with a model's weights, with their settings and hashes, which the cache folder stores for later processes.

Reading a model's settings requires transformers, which takes longer to import than a small client trains, and hashing
reads all bytes of the weights. A stored entry is valid while the names, sizes and times of the files are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from feddtl.errors import ModelError
from feddtl.memory import is_out_of_memory
from feddtl.models.digests import digest_each, names_not_finite
from feddtl.models.pickled_weights import open_pickled
from feddtl.models.remembered import read_remembered, remember
from feddtl.models.weight_files import describe_files, tensor_files

MODELS = "models.json"
# Raised when the format of an entry in MODELS changes.
FORMAT = 2
# Of safetensors: numbers whose values are those of the weights. Quantised ones need a scale beside them.
FLOATING = ("F64", "F32", "F16", "BF16")
SAME_MODEL = "Copy the model's folder again: config.json and the weights must be those of one model."

ModelSettings = dict[str, Any]


class ModelFiles:
    """Tensors by name, in one file or several, and their hashes and settings.

    Args:
        folder: Of the model.
        source: Name of the model in errors.
        remembered_in: The cache folder; None: nothing is stored.

    Raises:
        ModelError: The folder or its weights cannot be read.
    """

    def __init__(self, folder: Path, source: str, remembered_in: Path | None) -> None:
        self._source = source
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._types: dict[str, str] = {}
        self._file_of: dict[str, Path] = {}
        described = describe_files(folder, source)
        for file in tensor_files(folder, source):
            with opened(file, source) as content:
                for name in content.keys():  # noqa: SIM118 - it is not a dictionary
                    part = content.get_slice(name)
                    self._shapes[name], self._types[name] = tuple(part.get_shape()), part.get_dtype()
                    self._file_of[name] = file
        self._folder = str(folder.resolve())
        self._record = None if remembered_in is None else remembered_in / MODELS
        self._stamp: dict[str, Any] = {"format": FORMAT, "files": described, "transformers": version("transformers")}

    @property
    def names(self) -> Collection[str]:
        """Names of all tensors."""
        return self._shapes.keys()

    def require(self, wanted: Mapping[str, Tensor], prefixes: tuple[str, ...], ignored: Collection[str] = ()) -> None:
        """Check that the files contain every wanted tensor in its shape, and no other one under these prefixes.

        Args:
            wanted: By name; only their shapes are read.
            prefixes: Of the names of the model; tensors with other names are somebody else's.
            ignored: Names that may be there too.

        Raises:
            ModelError: A tensor is missing, left over, quantised or of another shape.
        """
        if missing := wanted.keys() - self._shapes.keys():
            raise ModelError(f"The model {self._source} lacks {_some(missing)}.", SAME_MODEL)
        if others := sorted(name for name, tensor in wanted.items() if self._shapes[name] != tuple(tensor.shape)):
            name = others[0]
            raise ModelError(
                f"Cannot load the model {self._source}: by config.json, {name} has the shape "
                f"{tuple(wanted[name].shape)}; in the weights it has {self._shapes[name]}"
                f"{f', and {len(others) - 1} more differ' if others[1:] else ''}.",
                SAME_MODEL,
            )
        if left := {name for name in self._shapes if name.startswith(prefixes)} - wanted.keys() - set(ignored):
            raise ModelError(
                f"Cannot load the model {self._source}: config.json has no place for {_some(left)}.", SAME_MODEL
            )
        for name in wanted:
            if self._types[name] not in FLOATING:
                raise ModelError(
                    f"Cannot load the model {self._source}: {name} is quantised ({self._types[name]}).",
                    f"Use the model in one of these types: {', '.join(FLOATING)}.",
                )

    def read(self, names: Collection[str]) -> dict[str, Tensor]:
        """Finite tensors in float32. Those that are float32 in the file are mapped: unused pages take no memory.

        Raises:
            ModelError: A tensor has NaN or infinite values. What was checked once is stored.
        """
        tensors = self._read(names)
        checked = set(self._entry.get("finite", ()))
        if todo := {name: tensor for name, tensor in tensors.items() if name not in checked}:
            if bad := names_not_finite(todo):
                raise ModelError(
                    f"Cannot load the model {self._source}: {bad[0]} has NaN or infinite values"
                    f"{f', and so have {len(bad) - 1} more tensors' if bad[1:] else ''}.",
                    "Copy the weights again. If they are the result of a training, it diverged: use an earlier state.",
                )
            self._entry["finite"] = sorted(checked | todo.keys())
            remember(self._record, self._folder, self._entry)
        return tensors

    def remembered(self, key: str, find: Callable[[], Any]) -> Any:
        """Something that these files determine, as JSON. `find` is called if it is not stored."""
        if key not in self._entry:
            self._entry[key] = find()
            remember(self._record, self._folder, self._entry)
        return self._entry[key]

    def digests(self, names: Collection[str]) -> dict[str, str]:
        """`tensor_digest` of tensors in float32, computed if it is not stored."""
        digests: dict[str, str] = self._entry.setdefault("digests", {})
        if missing := [name for name in names if name not in digests]:
            # Each tensor is read alone, so that its memory is freed with it.
            digests |= digest_each(missing, lambda name: self._read([name])[name])
            remember(self._record, self._folder, self._entry)
        return {name: digests[name] for name in names}

    def _read(self, names: Collection[str]) -> dict[str, Tensor]:
        with ExitStack() as stack:
            files = {self._file_of[name] for name in names}
            content = {file: stack.enter_context(opened(file, self._source)) for file in files}
            return {name: content[self._file_of[name]].get_tensor(name).float() for name in names}

    @cached_property
    def _entry(self) -> dict[str, Any]:
        """The stored entry; a new one if there is none or it describes other files."""
        entry = read_remembered(self._record).get(self._folder)
        if isinstance(entry, dict) and all(entry.get(key) == value for key, value in self._stamp.items()):
            return entry
        return dict(self._stamp)


def opened(file: Path, source: str) -> Any:
    """A file of weights. Raises ModelError if it is damaged."""
    if file.suffix == ".bin":
        return open_pickled(file, source)
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"Cannot load the model {source}: {file} is damaged or incomplete ({error}).", "Copy or download it again."
        ) from None


def _some(names: Collection[str]) -> str:
    return f"{len(names)} weights, among them {min(names)}"
