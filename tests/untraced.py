"""Coverage where it counts: tracing doubles the time of all Python code, libraries included."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
# What these call is measured in the tests of each part; here it runs again for every method, page or experiment.
REPEATED = ("equivalence", "methods/test_known_faults.py", "test_docs.py", "test_experiments_folder.py")


def without_tracing(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with tracing paused in its thread."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return function(*arguments, **options)
        finally:
            sys.settrace(tracer)

    return call


def pause_in_libraries(patch: pytest.MonkeyPatch) -> None:
    """Pause tracing in the calls of libraries that take most of the time of a short run."""
    import tyro
    from matplotlib.figure import Figure
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    slow: Sequence[tuple[Any, str]] = (
        (tyro, "cli"),
        (Figure, "savefig"),
        *((kind, "from_pretrained") for kind in (AutoTokenizer, CLIPConfig, CLIPModel)),
    )
    for owner, name in slow:
        patch.setattr(owner, name, without_tracing(getattr(owner, name)))


def is_repeated(item: pytest.Item) -> bool:
    """Whether a test runs what the tests of each part already measure."""
    return any(item.path.is_relative_to(TESTS / place) for place in REPEATED)
