"""Too little memory as an error with a next step, whichever library ran out of it; imports no torch."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from feddtl.errors import FeddtlError

# Of torch on a CPU, on a GPU and on Apple's, of C++ and of the system.
WORDS = ("allocate memory", "out of memory", "not enough memory", "bad_alloc", "insufficient memory")
HINT = (
    "Lower local.batch_size, data.views or compute.cache_memory_gb, set compute.clients_together = 1, close other "
    "programs, or use a smaller model or a machine with more memory."
)


class OutOfMemoryError(FeddtlError):
    """The process or its GPU ran out of memory."""


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn an error for too little memory into an OutOfMemoryError that says what to lower."""
    try:
        yield
    except FeddtlError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        first, *_ = str(error).strip().splitlines() or [""]
        raise OutOfMemoryError(f"There is not enough memory{f': {first}' if first else '.'}", HINT) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return any(word in str(error).lower() for word in WORDS)
