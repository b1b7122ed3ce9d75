"""Small runs to report on: two seeds of one method, one seed of another, all in one folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.small_runs import Bench, write_photos
from matplotlib.figure import Figure


@pytest.fixture(scope="session")
def several(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FedDTL with seeds 0 and 1, FedLoRA with seed 0, in folders below `runs`; none may be changed."""
    root = tmp_path_factory.mktemp("several")
    for method, seed in (("feddtl", 0), ("feddtl", 1), ("fedlora", 0)):
        bench.run(root / "runs" / f"{method}-seed{seed}", "--method", method, "--seed", seed)
    return root


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages whose figures are laid out and labelled, but empty: what is tested is elsewhere on the page."""
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **options: file.write(b"<svg/>"))


@pytest.fixture
def copy_of(several: Path, tmp_path: Path) -> Callable[[], Path]:
    """A copy of the folder of several runs, to damage."""
    return lambda: Path(shutil.copytree(several, tmp_path / "copy"))


@pytest.fixture(scope="session")
def with_domains(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pictures of two domains, one with a name that is markup."""
    root = tmp_path_factory.mktemp("domains")
    for domain in ("day & night", "<b>sketch"):
        write_photos(root / "photos", domain=domain)
    return bench.run(root / "run", "--data.source", root / "photos", "--rounds", 2)
