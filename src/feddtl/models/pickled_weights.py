"""Weights in PyTorch's own format, read so that nothing in the file is run: some models on the Hub have no others."""

from __future__ import annotations

import re
from pathlib import Path
from pickle import UnpicklingError
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from feddtl.errors import ModelError
from feddtl.memory import is_out_of_memory

PICKLED = "pytorch_model.bin"
# What torch's reader names in its errors.
_NAMED = re.compile(r"(?:GLOBAL|Unsupported \w+|Trying to instantiate class) ([A-Za-z_][\w.]*)")
# Names of safetensors for types; others are no weights of a model.
_TYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class PickledWeights:
    """The tensors of a file, with the part of the interface of `safetensors.safe_open` that `ModelFiles` uses."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors

    def __enter__(self) -> PickledWeights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tensors = {}

    def keys(self) -> list[str]:
        """Names of all tensors."""
        return list(self._tensors)

    def get_slice(self, name: str) -> PickledTensor:
        """Shape and type of a tensor."""
        return PickledTensor(self._tensors[name])

    def get_tensor(self, name: str) -> Tensor:
        """A tensor in the type of the file."""
        return self._tensors[name]


class PickledTensor:
    """Shape and type of a tensor, as a slice of safetensors has them."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        """The tensor's shape."""
        return list(self._tensor.shape)

    def get_dtype(self) -> str:
        """The tensor's type in the words of safetensors; torch's own for other types."""
        return _TYPES.get(self._tensor.dtype, str(self._tensor.dtype))


def open_pickled(file: Path, source: str) -> PickledWeights:
    """The tensors of a file of `torch.save`.

    torch's restricted reader builds tensors and containers alone, and stops at anything else before it is called.

    Raises:
        ModelError: The file is damaged, or has something other than tensors by name.
    """
    try:
        content: Any = _loaded(file)
    except UnpicklingError as error:
        # torch's own text advises to run what is in the file.
        named = _NAMED.search(str(error))
        told = f" ({named[1]})" if named else ""
        raise _refused(source, file, f"is damaged, or has more than tensors in it{told}") from None
    except Exception as error:  # a damaged archive raises nearly anything
        if is_out_of_memory(error):
            raise
        raise _refused(source, file, f"is damaged or incomplete ({error})") from None
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise _refused(source, file, "has something other than tensors by name")
    if odd := [name for name, tensor in content.items() if tensor.layout != torch.strided or tensor.is_meta]:
        raise _refused(source, file, f"has a sparse tensor or one without values, {odd[0]}")
    return PickledWeights(content)


def _loaded(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:
        # Files from before torch 1.6 are no archives and cannot be mapped.
        return torch.load(file, map_location="cpu", weights_only=True)


def _refused(source: str, file: Path, problem: str) -> ModelError:
    return ModelError(
        f"Cannot load the model {source}: {file} {problem}. It is read only if it has tensors alone, because other "
        "contents can run code.",
        "Copy or download the model again, or choose one with model.safetensors.",
    )
