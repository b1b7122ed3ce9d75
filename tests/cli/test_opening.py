"""Before a command imports what takes seconds, a terminal shows what it does."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from feddtl.cli.commands import COMMANDS
from feddtl.cli.output import standard_streams

# Every command in one process, in which the first heavy import ends a command.
SCRIPT = """
import json, sys
from importlib.abc import MetaPathFinder

class Heavy(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers", "numpy", "matplotlib"):
            raise SystemExit(77)

sys.meta_path.insert(0, Heavy())
from feddtl.cli import main
for words in json.loads(sys.argv[1]):
    print("=== next", flush=True)
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    print("code", code, flush=True)
"""
RUN = "run"
CALLS = {
    "run": ["run", "quickstart", "--output", "new"],
    "compare": ["compare", "quickstart", "--output", "new"],
    "evaluate": ["evaluate", RUN],
    "predict": ["predict", RUN, "pictures"],
    "embed": ["embed", RUN, "pictures", "--output", "new.npz"],
    "export": ["export", RUN, "new"],
    "report": ["report", RUN],
    "partition": ["partition", "quickstart"],
    "doctor": ["doctor"],
    "cache": ["cache"],
}
LIGHT = {"status", "follow", "stop", "keys", "server", "client", "submit"}
"""These import nothing of the kind before they have printed something, or end at once without Flower."""
QUIET = [
    [*CALLS["run"], "--quiet"],
    *(
        [*CALLS[name], "--json"]
        for name in ("compare", "evaluate", "report", "partition", "predict", "doctor", "cache")
    ),
]


def transcripts(folder: Path, calls: list[list[str]]) -> list[str]:
    """What each call wrote to a terminal until it imported something heavy, by which it ends."""
    (folder / RUN).mkdir()
    (folder / RUN / "config.json").write_text("{}")
    leader, follower = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "60"}
    words = [sys.executable, "-c", SCRIPT, json.dumps(calls)]
    said = b""
    with subprocess.Popen(words, cwd=folder, env=environment, stdout=follower, stderr=follower):
        os.close(follower)
        with suppress(OSError):  # what Linux says when the other side of a terminal is closed
            while part := os.read(leader, 4096):
                said += part
    os.close(leader)
    ended = said.decode().replace("\r\n", "\n").split("=== next\n")[1:]
    assert [text[-len("code 77\n") :] for text in ended] == ["code 77\n"] * len(calls)
    return [text.removesuffix("code 77\n") for text in ended]


def test_a_terminal_shows_what_a_command_does_before_the_first_heavy_import(tmp_path: Path) -> None:
    """And nothing of it stays: a line that fits, and its erasure. Quiet commands show none."""
    assert CALLS.keys() == COMMANDS.keys() - LIGHT
    said = transcripts(tmp_path, [*CALLS.values(), *QUIET])
    for text in said[: len(CALLS)]:
        assert re.fullmatch(r"[a-z][\w :/.,]{8,50} …\r\x1b\[K", text)
    assert f"loading the model of {RUN} …\r\x1b[K" in said
    assert said[len(CALLS) :] == [""] * len(QUIET)


def test_a_file_gets_nothing_of_it(capfd: pytest.CaptureFixture[str]) -> None:
    with standard_streams() as streams:
        streams.open_with("loading …")
        print("done")
    assert capfd.readouterr() == ("done\n", "")
