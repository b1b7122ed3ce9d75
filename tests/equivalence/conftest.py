"""Fixtures of tests over Flower; what they need is imported where Flower is installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from equivalence.silos import Silos


@pytest.fixture(scope="module")
def silos(tmp_path_factory: pytest.TempPathFactory) -> Silos:
    from equivalence.silos import make_silos

    return make_silos(tmp_path_factory.mktemp("silos"))


@pytest.fixture
def fresh_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has clients that remember nothing of another one's."""
    from equivalence.silos import forget_clients

    forget_clients(tmp_path / "state", monkeypatch)
