"""Commands in this process, for the tests of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.small_runs import Answer, Command

from feddtl.cli import main


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
