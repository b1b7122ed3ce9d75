"""What a person sees: bars on a terminal, a line a round elsewhere."""

from __future__ import annotations

import io
import math
import os
import pty
import re
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli.small_runs import ROUNDS, Bench, Command
from made_records import made_record
from rich.console import Console

from feddtl.cli import main
from feddtl.cli.bars import Bars
from feddtl.cli.progress import ProgressObserver, WarningObserver, run_progress
from feddtl.cli.run_result import time_line
from feddtl.config import DataConfig, SystemConfig
from feddtl.data.federated import images_on_clients
from feddtl.evaluate import HitCounts, Scores
from feddtl.experiment import run_experiment
from feddtl.progress_lines import counted_line
from feddtl.runtimes.federated import federated_accuracy
from feddtl.timing import PHASE_TITLES, PHASES
from feddtl.units import NUMBERED, counted, duration, megabytes, percent, rounds_named, size

ROUND_LINE = re.compile(
    r"round (\d+)/4 (sft|rl )   base +[\d.]+  novel +[\d.]+  HM +[\d.]+  (loss +-?[\d.]+|reward [\d.]+)  [\d.]+ s"
)


def test_one_line_a_round_when_not_on_a_terminal(bench: Bench, feddtl: Command) -> None:
    answer = feddtl("run", *bench.flags("--output", "run"))
    lines = answer.err.splitlines()
    assert lines[0].startswith("note: No experiment file was given")
    assert lines[1].startswith("note: Fewer than 16 training images")
    assert lines[2] == "note: 15 training images of novel classes are not trained on."
    assert re.fullmatch(r"note: Blocks compute in \w+ with \w+ attention: (as set|measured [\w ]+)\.", lines[3])
    assert lines[4] == f"FedDTL on photos, model {bench.clip}, seed 0"
    assert lines[5] == "15 training images of 3 base classes on 3 clients (few-shot, non-iid), 3 novel classes"
    assert lines[6].startswith("zero-shot       base ")
    # A round that teaches almost nothing is followed by a note.
    scored = [line for line in lines[6:] if not line.startswith("note: Round")]
    rounds = [ROUND_LINE.fullmatch(line) for line in scored[1:]]
    assert [match and match[1] for match in rounds] == ["1", "2", "3", "4"]
    assert len({line.index("base") for line in scored}) == 1  # one below the other
    assert "\x1b" not in answer.err


def test_rounds_that_are_not_scored(bench: Bench, feddtl: Command) -> None:
    answer = feddtl("run", *bench.flags("--output", "run", "--evaluation.every", 4))
    assert answer.err.count("not scored") == ROUNDS - 1


def test_lines_under_a_clock(bench: Bench, feddtl: Command) -> None:
    """Virtual time where clocks are set, and how many updates were lost; three rounds of loss 0.6 lose some."""
    flags = ("--system.dropout", 0.6, "--system.seconds-per-image", 1.0)
    lines = [
        line for line in feddtl("run", *bench.flags("--output", "run", *flags)).err.splitlines() if "round" in line
    ]
    times = [float(re.search(r"  virtual ([\d.]+) s  ", line)[1]) for line in lines]  # type: ignore[index]
    assert len(times) == ROUNDS
    assert times == sorted(times)
    assert re.search(r"  lost [123]  virtual ", "".join(lines))


@pytest.mark.parametrize("system", [SystemConfig(mode="async"), SystemConfig(dropout=0.9)], ids=["async", "lost"])
def test_bars_under_a_clock(bench: Bench, tmp_path: Path, system: SystemConfig) -> None:
    """As many clients as the round has, however they arrive or are lost."""
    screen = io.StringIO()
    with Bars(Console(file=screen, force_terminal=True, width=100, color_system=None)) as bars:
        run_experiment(bench.experiment(system=system), tmp_path / "run", observer=ProgressObserver(bars))
    assert "round 4/4 rl" in screen.getvalue()
    assert "virtual" in screen.getvalue()


def test_table(bench: Bench, feddtl: Command) -> None:
    out = feddtl("run", *bench.flags("--output", "run")).out
    lines = out.splitlines()
    assert lines[0].strip() == "Accuracy in % after 4 rounds"
    cells = [[cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in lines if line[0] in "┃│"]
    assert cells[0] == ["", "Local", "Base", "Novel", "HM"]
    assert [row[0] for row in cells[1:]] == ["Zero-shot", "FedDTL", "on clients' test images"]
    assert all(re.fullmatch(r"\d+\.\d|–", cell) for row in cells[1:] for cell in row[1:])
    assert re.fullmatch(r"highest on the test images, not for model selection: HM \d+\.\d after round \d", lines[-5])
    assert lines[-4].startswith("time ")
    assert re.match(r"time went to: [a-z ]+ \d+\.\d s \(\d+%\)  ", lines[-3])
    assert "up 39.3 kB  down 56.4 kB" in lines[-4]
    assert lines[-2:] == ["run folder: run", "as a page: `feddtl report run`"]


def test_a_finished_run_says_what_its_rounds_gave_reason_to_say(bench: Bench, feddtl: Command, tmp_path: Path) -> None:
    run = bench.run(tmp_path / "run", "--rl.noise-std", "auto")
    assert "note: rl.noise_std = 'auto' is " in feddtl("run", "--resume", run).err


def test_resuming_says_where_it_goes_on(feddtl: Command, finished: Path) -> None:
    """A finished run is not run again, a cut one goes on."""
    answer = feddtl("run", "--resume", finished)
    assert "is already finished" in answer.err
    assert "FedDTL" in answer.out
    (finished / "summary.json").unlink()
    assert "resuming after round 4 of 4" in feddtl("run", "--resume", finished).err


def test_bars_for_images_rounds_clients_and_epochs(bench: Bench, tmp_path: Path) -> None:
    """Every update drawn at once, so that none is skipped between two frames."""
    screen = io.StringIO()
    shown: list[str] = []

    class RecordedBars(Bars):
        def draw(self, name: str, title: str, *numbers: Any, **options: Any) -> None:
            super().draw(name, title, *numbers, **options)
            shown.append(" ".join(map(str, (name, title, *numbers))))

    with RecordedBars(Console(file=screen, force_terminal=True, width=100, color_system=None)) as bars:
        run_experiment(bench.experiment(), tmp_path / "run", observer=ProgressObserver(bars))
    assert shown[:2] == ["loading data and model", "loading training images 15 15"]
    assert "rounds rounds 0 4" in shown
    first = shown.index("clients clients 0 3")
    assert shown[first : first + 5] == [
        "clients clients 0 3",
        "epochs client 0, sft",
        "epochs epochs of client 0 1 2",
        "epochs epochs of client 0 2 2",
        "clients clients 1 3",
    ]
    assert "epochs epochs of client 2 3 3" in shown  # an RL round has three
    assert shown[-2:] == ["epochs server and scoring", "rounds rounds 4 4"]
    text = screen.getvalue()
    for line in ("round 1/4 sft", "round 4/4 rl", "zero-shot"):
        assert line in text


def test_a_real_terminal_gets_bars(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    leader, follower = pty.openpty()
    read: list[bytes] = []

    def listen() -> None:
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:  # what Linux says when the other side is closed
                return
            if not part:
                return
            read.append(part)

    listener = threading.Thread(target=listen)
    listener.start()
    with os.fdopen(follower, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        assert main(["run", *bench.flags("--output", tmp_path / "run")]) == 0
    listener.join(timeout=20)
    os.close(leader)
    screen = b"".join(read).decode()
    assert "━━━━" in screen
    assert "rounds" in screen
    assert "round 4/4 rl" in screen


@pytest.mark.parametrize(("terminal", "expected"), [(True, ["note: alpha beta", "      gamma"]), (False, None)])
def test_long_lines_break_between_words_on_a_terminal_alone(terminal: bool, expected: list[str] | None) -> None:
    """'note: alpha beta gamma' has 22 letters; 'gamma' would be cut after its third at a width of 20."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=20, color_system=None)
    ProgressObserver(Bars(console)).note("alpha beta gamma")
    assert [line.rstrip() for line in screen.getvalue().splitlines()] == (expected or ["note: alpha beta gamma"])


def test_which_observer() -> None:
    for quiet, kind in ((True, WarningObserver), (False, ProgressObserver)):
        with run_progress(quiet=quiet) as observer:
            assert type(observer) is kind


def test_a_file_gets_lines_and_no_bars(bench: Bench, feddtl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where colours are forced, as on many build servers."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    answer = feddtl("run", *bench.flags("--output", "run"))
    assert "round 4/4 rl" in answer.err
    assert "━" not in answer.err
    assert "\x1b" not in answer.err


def test_words_for_numbers() -> None:
    assert [percent(None), percent(float("nan")), percent(71.26)] == ["–", "–", "71.3"]
    assert [size(950), size(1_260_000), size(3_000_000_000)] == ["0.9 kB", "1.3 MB", "3.0 GB"]
    assert [duration(59.4), duration(61), duration(3 * 3600 + 125)] == ["59 s", "1 min 01 s", "3 h 02 min"]
    assert [counted(number, "round") for number in (0, 1, 1200)] == ["0 rounds", "1 round", "1,200 rounds"]
    assert [megabytes(number) for number in (0, 30_720, 99_900, 2_540_000)] == ["0.0", "0.031", "0.100", "2.5"]


def test_the_final_table_has_the_federated_accuracy_beside_the_central_one(bench: Bench, feddtl: Command) -> None:
    """All nine base test images are in the clients' shares: the same base accuracy, and no novel one."""
    answer = feddtl("run", *bench.flags("--output", "run", "--rounds", 2, "--schedule.sft-rounds", 1))
    rows = {line.split("│")[1].strip(): line.split("│")[2:6] for line in answer.out.splitlines() if line.count("│") > 4}
    central, federated = ([cell.strip() for cell in rows[name]] for name in ("FedDTL", "on clients' test images"))
    assert federated[1] == central[1]
    assert (federated[0], federated[2], federated[3]) == ("–", "–", "–")


def test_clients_with_images_of_their_own(bench: Bench) -> None:
    """What is known of a round comes with the round, its accuracies one round later."""
    drawn = io.StringIO()
    observer = ProgressObserver(Bars(Console(file=drawn, width=200)))
    config = DataConfig(source="clients", classes="ant,bee", novel_classes="cat", clients=3)
    unknown = Scores(math.nan, math.nan, math.nan)
    observer.run_started(bench.experiment(data=config), images_on_clients(config), unknown, ())
    observer.clients_counted(0, federated_accuracy({0: HitCounts(1, 4, 2, 2), 2: HitCounts(2, 2)}, {}))
    record = made_record(1, train={"loss": 0.5}, local=25.0, seconds={"steps": 1.0})
    observer.round_finished(record)
    observer.clients_counted(1, federated_accuracy({1: HitCounts(0, 1)}, {}))
    lines = drawn.getvalue().splitlines()
    assert lines[1] == "3 clients with images of their own: 2 base classes, 1 novel class"
    assert lines[2] == "before training  base  50.0  novel 100.0  HM  66.7  (8 test images on 2 clients)"
    assert lines[3] == "round 1/4 sft   local  25.0  loss  0.5000  1.0 s"
    assert lines[4] == "after round 1/4  base   0.0  novel     –  HM     –  (1 test image on 1 client)"


def test_numbers_and_rounds_in_words() -> None:
    assert [NUMBERED.all_of(ids, most=3) for ids in ([3], [1, 3], [0, 1, 2, 5])] == [
        *("client 3", "clients 1 and 3", "clients 0, 1, 2 and 1 more"),
    ]
    assert [rounds_named(numbers) for numbers in ([0], [4], [0, 1, 2, 3, 5])] == [
        *("before training", "round 4", "before training and rounds 1–3, 5"),
    ]


def test_a_counted_round_names_who_is_missing() -> None:
    found = federated_accuracy({0: HitCounts(1, 4, 2, 2)}, {})
    found = replace(found, missing=[2], all_base_images=6, all_novel_images=2)
    assert counted_line(3, found, 4).endswith("(4 of 6 base and 2 of 2 novel images; client 2 missing)")


def test_where_the_time_went() -> None:
    """Of 100 s, 0.4 s of the server are below half a percent: with 9.1 s of no phase they are 9.5 s of 'other'."""
    seconds = {"load": 20.0, "prefix": 20.5, "steps": 50.0, "server": 0.4, "other": 9.1}
    assert time_line(seconds) == (
        "time went to: local training 50.0 s (50%)  frozen blocks 20.5 s (20%)  loading 20.0 s (20%)  other 9.5 s (10%)"
    )
    assert time_line({"load": 1.0}) == "time went to: loading 1.0 s (100%)"
    assert time_line({}) == "time went to: "


def test_every_phase_has_one_word_of_its_own() -> None:
    assert tuple(PHASE_TITLES) == PHASES
    assert len(set(PHASE_TITLES.values())) == len(PHASES)
