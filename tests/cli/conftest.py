"""A small model, small pictures and a finished run, for the tests of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.small_runs import Answer, Bench, Command

from feddtl.cli import main


@pytest.fixture(scope="session")
def finished(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished FedDTL run; shared by all tests, so none may change it."""
    return bench.run(tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture
def feddtl(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command in this process, in an empty working folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Answer:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return run
