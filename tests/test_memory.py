"""Too little memory is said in plain words, whoever ran out of it."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from feddtl.backbones.source import model_errors
from feddtl.cli import main
from feddtl.errors import ConfigError
from feddtl.memory import OutOfMemoryError, memory_errors

WITHOUT_MEMORY = [
    MemoryError(),
    MemoryError("Unable to allocate 8.00 TiB for an array"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has a total capacity of 8 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.07 GB)"),
    RuntimeError("std::bad_alloc"),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
]


def names(error):
    return f"{type(error).__name__}-{str(error)[:12]}"


@pytest.mark.parametrize("error", WITHOUT_MEMORY, ids=names)
def test_it_names_what_to_lower(error):
    """Also while a model is loaded, whose files are not to blame."""
    expected = pytest.raises(OutOfMemoryError, match="There is not enough memory")
    with expected as caught, memory_errors(), model_errors("clip"):
        raise error
    assert "local.batch_size" in caught.value.hint
    assert "\n" not in caught.value.message
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [RuntimeError("shape"), OSError(errno.ENOENT, "gone"), ConfigError("wrong"), KeyError()]
)
def test_other_errors_stay(error):
    with pytest.raises(type(error)) as caught, memory_errors():
        raise error
    assert caught.value is error


def test_allocation_that_really_fails():
    with pytest.raises(OutOfMemoryError), memory_errors():
        torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize("command", [["partition"], ["doctor"]])
def test_every_command_ends_with_one_error(command, monkeypatch, capsys):
    monkeypatch.setattr("feddtl.cli._parse", lambda words: (_ for _ in ()).throw(MemoryError()))
    assert main(command) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: There is not enough memory.\n  Lower local.batch_size")
