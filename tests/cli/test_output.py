"""Standard streams with few characters, that are closed or full, or whose reader has gone; signals; no home folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from cli.small_runs import Bench, Command
from rich.console import Console

from feddtl.cli.bars import Bars
from feddtl.cli.output import ERRORS, plain, standard_streams
from feddtl.cli.printing import print_line
from feddtl.cli.scores import scores_table
from feddtl.cli.signals import ended_by_signals
from feddtl.storage import make_folder, new_folder

# Enough of a command for what happens to its output, without the second that torch takes.
SCRIPT = """
import sys
from feddtl.cli import COMMANDS, main
from feddtl.cli.command import Command

class Say(Command):
    @classmethod
    def parse(cls, name, words):
        return cls()

    def execute(self):
        from rich.console import Console
        from rich.table import Table

        table = Table()
        table.add_column("猫 Δ")
        table.add_row("é █ – \\udcff")
        for line in range(300):
            print("note", "é", line, file=sys.stderr, flush=True)
            Console().print(table)
        open("done", "w").close()
        return 0

COMMANDS["say"] = Say
sys.exit(main(["say"]))
"""


def say(folder: Path, redirection: str, encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = f'"$0" -c "$1" {redirection}; echo "code ${{PIPESTATUS[0]}}" > code'
    words = ["bash", "-c", command, sys.executable, SCRIPT]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("> /dev/full", 1, b"error: Cannot write to standard output: No space left on device."),
        (">&-", 1, b"error: Cannot write to standard output: it is closed."),
        ("| head -1 > first", 1, b""),
        ("> out 2>&-", 0, b""),
        ("> out 2> /dev/full", 0, b""),
        ("2>&1 > /dev/full | head -1", 1, b""),
        (">&- 2>&- <&-", 1, b""),
    ],
)
def test_a_stream_that_fails_ends_no_work(tmp_path: Path, redirection: str, code: int, said: bytes) -> None:
    done = say(tmp_path, redirection)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert said in done.stderr
    assert (tmp_path / "code").read_text() == f"code {code}\n"
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_every_character_is_printed_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    done = say(tmp_path, "", encoding)
    assert (tmp_path / "code").read_text() == "code 0\n"
    assert (b"\\u732b d" in done.stdout) == (encoding != "utf-8")
    assert b"\xff" in done.stdout  # a byte of a file name
    done.stderr.decode(encoding)


def test_symbols_have_plain_forms_and_letters_are_escaped() -> None:
    with standard_streams():
        text = "50 % – Δ −1 ░▒▓█ 猫 \udcff"
        assert text.encode("ascii", ERRORS) == b"50 % - d -1 .:*# \\u732b \xff"
        assert "–".encode("cp1252", ERRORS) == b"\x96"
    with pytest.raises(UnicodeDecodeError):
        plain(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_command_once_with_their_code(number: signal.Signals, request: pytest.FixtureRequest) -> None:
    # The tests themselves may run under nohup.
    request.addfinalizer(partial(signal.signal, number, signal.signal(number, signal.SIG_DFL)))
    cleaned = []

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), number)
            cleaned.append(number)

    with pytest.raises(SystemExit) as ended, ended_by_signals():
        work()
    assert ended.value.code == 128 + number
    assert cleaned
    assert signal.getsignal(number) is signal.SIG_DFL


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the system does not know, without HOME."""

    def unknown(self: Path) -> Path:
        if str(self).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return self

    monkeypatch.setattr(Path, "expanduser", unknown)
    for name in ("FEDDTL_CACHE", "FEDDTL_STATE", "XDG_STATE_HOME", "XDG_CACHE_HOME", "HF_HOME", "MPLCONFIGDIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_home")
def test_a_run_without_a_home_folder_says_that_nothing_is_cached(bench: Bench, feddtl: Command) -> None:
    answer = feddtl("run", *bench.flags("--output", "run", "--rounds", 1))
    assert answer.code == 0, answer.err
    note = "note: This user has no home folder, so activations are not cached for later runs. FEDDTL_CACHE names a"
    assert note in answer.err
    assert Path("run/accuracy.svg").exists()
    assert not Path("~").exists()


@pytest.mark.usefixtures("no_home")
@pytest.mark.parametrize(
    ("words", "needles"),
    [
        (["cache"], ["this user has no home folder", "--compute.cache-folder"]),
        (["run", "--model", "openai/clip-vit-base-patch32"], ["no folder for downloads", "HF_HOME"]),
        (["run", "--model", "~/clip"], ["The home folder of ~/clip is unknown", "HOME"]),
        (["run", "--data.source", "cifar10"], ["no folder for downloads", "HF_HOME"]),
        (["partition", "--data.source", "~nobody-here/photos"], ["home folder of ~nobody-here/photos"]),
        (["run", "--compute.cache-folder", "~/cache"], ["home folder of ~/cache"]),
    ],
)
def test_what_needs_a_home_folder_says_what_to_name(words: list[str], needles: list[str], feddtl: Command) -> None:
    answer = feddtl(*words)
    assert answer.code == 1
    assert "Traceback" not in answer.err
    for needle in ("error: ", *needles):
        assert needle in answer.err


def test_names_are_no_markup_and_no_escape_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    name = "[red]a[/red] {b} %s \x1b[2J\u202e:smile:"
    console = Console(width=200)
    console.print(scores_table({name: {}}, name))
    print_line(console, name)
    with Bars(Console(force_terminal=True, width=200)) as bars:
        bars.draw("rounds", name, 1, 2)
        bars.refresh()
    shown = "[red]a[/red] {b} %s \N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}:smile:"
    out = capsys.readouterr().out
    assert out.count(shown) >= 4
    assert "\x1b[2J\u202e" not in out


def test_others_may_not_write_to_a_folder(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_folder(tmp_path / "a" / "b")
        with new_folder(tmp_path / "c") as draft:
            (draft / "d").mkdir()
            (draft / "d" / "file").write_text("")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"a": 0o775, "b": 0o775, "c": 0o755, "d": 0o755, "file": 0o644}
