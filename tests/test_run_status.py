"""`feddtl status`, `follow` and `stop`: what a run is doing or how it ended, from its folder and its log."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cli.small_runs import refused
from edited_runs import change
from made_records import made_record

from feddtl import run_following
from feddtl.cli import main
from feddtl.config import DataConfig, Experiment
from feddtl.errors import DataError, RunError, StoppedError
from feddtl.experiment_file import experiment_to_dict
from feddtl.log_observer import logged
from feddtl.observers import RunObserver
from feddtl.run_log import append_event, begin_session, last_session, still_runs, this_process
from feddtl.run_status import refuse_running, run_status, status_lines
from feddtl.sealed_files import write_sealed
from feddtl.storage import is_locked, json_text, only_writer

EXPERIMENT = Experiment(rounds=4)
SCORED = ("local", "local_by_client", "base", "novel", "harmonic_mean", "client_models", "domains")
SCORES = {"local": 50.0, "base": 61.7, "novel": 40.0, "harmonic_mean": 48.5}


@pytest.fixture
def feddtl(capsys, tmp_path, monkeypatch):
    """As in tests/cli, without a model."""
    from cli.small_runs import Answer

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_following, "SECONDS_BETWEEN_LOOKS", 0.01)

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture
def folder(tmp_path):
    return made_run(tmp_path / "runs" / "first")


def made_run(folder: Path, rounds: int = 2, **record: object) -> Path:
    """The folder of a run with so many finished rounds of ten seconds."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json_text(experiment_to_dict(EXPERIMENT)))
    data = {"dataset": "shapes", "prompt_template": "{class}", "base_classes": ["circle"], "novel_classes": []}
    (folder / "data.json").write_text(json_text(data))
    made = [made_record(n, seconds={"steps": 10.0}, **SCORES, **record) for n in range(1, rounds + 1)]
    (folder / "metrics.jsonl").write_text("".join(json_text(each.to_dict(), indent=None) for each in made))
    return folder


def over_flower(folder: Path) -> None:
    """The log of a run in round 3, in which client 1 has not answered."""
    begin_session(folder, remote=True)
    append_event(folder, "connected", clients=[0, 1, 2], of=4)
    append_event(folder, "begun", lines=["FedDTL on shapes"])
    append_event(folder, "note", text="Client 1: few images.")
    append_event(folder, "line", text="round 2/4 sft")
    append_event(folder, "round", round=3, stage="sft", clients=[0, 1, 2])
    append_event(folder, "arrived", clients=[0])
    append_event(folder, "arrived", clients=[0, 2])


def test_a_run_that_goes_on(folder):
    with only_writer(folder):
        over_flower(folder)
        found = run_status(folder)
    assert (found.state, found.phase, found.rounds_done) == ("running", "round 3 of 4 (sft)", 2)
    assert found.clients == {"selected": [0, 1, 2], "arrived": [0, 2], "connected": [0, 1, 2]}
    assert found.seconds_left == pytest.approx(20, abs=10)
    text = "\n".join(status_lines(found))
    assert f"process {os.getpid()} on " in text
    assert "connected: clients 0, 1 and 2, 3 of 4" in text
    assert "updates: 2 of 3; waiting for client 1" in text
    assert "after round 2: local 50.0  base  61.7  novel  40.0  HM  48.5" in text
    assert re.search(r"about \d+ s left", text)
    json.loads(json_text(found.to_dict()))


def test_clients_that_are_late_and_why(tmp_path):
    lost = made_run(tmp_path / "run", lost=[1], failures={1: "no reply within 5 seconds."})
    said = "updates lost in 2 rounds, last in round 2: client 1: no reply within 5 seconds"
    assert f"  {said}" in status_lines(run_status(lost))


def test_scores_that_are_older_than_the_last_round_say_so(folder):
    """Clients elsewhere score the model of a round with the broadcast of the next one."""
    assert status_lines(run_status(folder))[2].startswith("  after round 2: local")
    change(folder / "metrics.jsonl", lambda record: record["round"] == 2 and [record.pop(key, 0) for key in SCORED])
    assert status_lines(run_status(folder))[2].startswith("  after round 1, the latest with scores: local")


@pytest.mark.parametrize(
    ("how", "state", "words"),
    [
        ("stopped", "stopped", "stopped after round 2 of 4, as `feddtl stop` asked"),
        ("failed", "failed", "ended with an error after round 2 of 4"),
        ("interrupted", "interrupted", "interrupted after round 2 of 4"),
        ("", "killed", "ended without a word after round 2 of 4"),
        ("finished", "unknown", "is not running, after round 2 of 4"),  # someone removed the summary
        (["no text"], "unknown", "is not running"),
    ],
)
def test_how_a_run_ended(folder, how, state, words):
    over_flower(folder)
    if how:
        append_event(folder, "ended", how=how, text="No images.", hint="Add some.")
    found = run_status(folder)
    assert (found.state, found.seconds_left) == (state, None)
    lines = status_lines(found)
    assert words in lines[0]
    assert ("  No images." in lines) == (state == "failed")


def test_a_finished_run_and_one_without_a_log(folder):
    assert run_status(folder).state == "unknown"
    (folder / "summary.json").write_text("{}")
    assert "finished, 2 rounds" in status_lines(run_status(folder))[0]


def test_the_lock_of_a_killed_process_does_not_block(tmp_path):
    """Its log says that it runs: the folder is free all the same, and the status says that it was killed."""
    folder = made_run(tmp_path / "run")
    code = (
        "import signal, sys\nfrom pathlib import Path\n"
        "from feddtl.storage import only_writer\nfrom feddtl.run_log import begin_session\npath = Path(sys.argv[1])\n"
        "with only_writer(path):\n    begin_session(path, remote=False); print('locked', flush=True); signal.pause()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    with pytest.raises(RunError, match=rf"is still running: process {process.pid} on .* since ") as caught:
        refuse_running(folder)
    assert "feddtl follow" in caught.value.hint
    assert run_status(folder).state == "running"
    process.kill()
    process.wait()
    refuse_running(folder)
    assert run_status(folder).state == "killed"
    with only_writer(folder):
        assert is_locked(folder)


def test_where_there_are_no_locks_the_process_itself_is_looked_for(folder, monkeypatch):
    """A number alone is not enough: after a reboot, or long enough, another process has it."""
    monkeypatch.setattr("feddtl.run_status.is_locked", lambda path: None)
    over_flower(folder)
    assert run_status(folder).state == "running"
    with pytest.raises(RunError, match="is still running"):
        refuse_running(folder)
    mine = this_process()
    assert still_runs(mine)
    for other in (
        {"born": "1"},
        {"boot": "earlier"},
        {"host": "elsewhere"},
        {"pid": 2**22 + 1},
        {"pid": -1},
        {"pid": None},
    ):
        assert not still_runs({**mine, **other})
    append_event(folder, "ended", how="interrupted")
    assert run_status(folder).state == "interrupted"


@pytest.mark.parametrize(
    "rest", [b'{"time": 1, "event": "ro', b"\xff\xfe\n", b"[" * 100_000 + b"\n", b'{"event": 3}\n[]\n\n']
)
def test_a_damaged_log_costs_its_damaged_lines(folder, rest):
    over_flower(folder)
    before = last_session(folder)
    with (folder / "log.jsonl").open("ab") as file:
        file.write(rest)
    assert last_session(folder) == before
    begin_session(folder, remote=False)
    assert [event["event"] for event in last_session(folder)] == ["started"]


def test_how_the_log_of_a_run_ends(folder):
    def run(error: BaseException | None = None) -> dict[str, object]:
        with suppress(BaseException), logged(folder, EXPERIMENT, remote=False) as observer:
            observer.note("one")
            if error:
                raise error
        (started, note, ended) = last_session(folder)
        assert (started["pid"], note["text"]) == (os.getpid(), "one")
        return {key: ended[key] for key in ("how", "text", "hint")}

    assert run()["how"] == "finished"
    assert run(DataError("No.", "Yes.")) == {"how": "failed", "text": "No.", "hint": "Yes."}
    assert run(ValueError("odd")) == {"how": "failed", "text": "ValueError: odd", "hint": ""}
    assert run(KeyboardInterrupt())["how"] == "interrupted"
    assert run(StoppedError("After round 2."))["how"] == "stopped"


def under_log(folder: Path, request: str, *events: Callable[[RunObserver], None]) -> None:
    """A run that is asked to stop when it has just started, and these events of it."""
    with logged(folder, EXPERIMENT, remote=True) as log:
        (folder / "stop.request").write_text(request)
        for event in events:
            event(log)


def next_round(log):
    log.round_started(3, "sft", [0])


WITHIN = (lambda log: log.waiting(), lambda log: log.epoch_finished(0, 1, 1), lambda log: log.client_finished(0))


def test_a_stop_ends_the_run_between_two_rounds_and_now_within_one(folder):
    under_log(folder, "\n", *WITHIN)
    assert not (folder / "stop.request").exists()
    for request, event in (("\n", next_round), *(("now\n", within) for within in WITHIN)):
        with pytest.raises(StoppedError, match="before its first round ended"):
            under_log(folder, request, event)
        assert not (folder / "stop.request").exists()


def test_a_request_to_an_earlier_process_is_not_one_to_this(folder):
    (folder / "stop.request").touch()
    with logged(folder, EXPERIMENT, remote=True) as log:
        log.round_started(3, "sft", [0])


# --- the commands ------------------------------------------------------------------------------------


@pytest.fixture
def going_on(folder):
    """A run that ends as `feddtl stop` asks, soon after it was asked."""

    def run():
        with only_writer(folder), logged(folder, EXPERIMENT, remote=True) as log:
            over_flower(folder)
            began.set()
            while not done.is_set():
                time.sleep(0.01)
                log.round_started(3, "sft", [0, 1])

    def until_stopped():
        with suppress(StoppedError):
            run()

    began, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=until_stopped)
    thread.start()
    assert began.wait(10)
    yield folder
    done.set()
    thread.join()


def test_stop_waits_for_the_end_and_says_how_to_go_on(feddtl, going_on):
    """The folder above it will do, since one run is running in it."""
    answer = feddtl("stop", going_on.parent)
    assert answer.code == 0
    assert "stops after round 3" in answer.out
    assert f"It can be resumed: `feddtl run --resume {going_on}" in answer.out
    refused(feddtl("stop", going_on), "is not running: it has ended (stopped)", "feddtl run --resume")


def test_follow_shows_what_the_run_printed_until_it_ends(feddtl, going_on):
    threading.Timer(0.2, lambda: (going_on / "stop.request").touch()).start()
    answer = feddtl("follow", going_on)
    assert answer.code == 1
    lines = [line.partition(" ")[2] for line in answer.out.splitlines()]
    assert lines[:3] == ["FedDTL on shapes", "note: Client 1: few images.", "round 2/4 sft"]
    assert "stopped before its first round ended, as `feddtl stop` asked" in answer.out or "stopped after" in answer.out


def test_a_run_that_goes_on_cannot_be_resumed_or_begun_again(feddtl, going_on):
    for words in (("--resume", going_on), ("--output", going_on, "--rounds", 4)):
        refused(feddtl("run", *words), "is still running: process", f"feddtl stop {going_on}")


def test_what_is_not_there(feddtl, folder, tmp_path):
    for command in ("status", "follow", "stop"):
        refused(feddtl(command, tmp_path / "nowhere"), "There is no run in", "nowhere")
    made_run(folder.parent / "second")
    refused(feddtl("stop", folder.parent), "No run is running in", "feddtl status")
    refused(feddtl("stop", folder), "is not running: no process has it")
    (folder / "summary.json").write_text("{}")
    refused(feddtl("stop", folder), "is not running: it is finished", "feddtl status")


def test_the_status_of_all_runs_below_a_folder(feddtl, folder):
    """The newer one is first."""
    made_run(folder.parent / "second")
    os.utime(folder / "config.json", (1, 1))
    (folder.parent / "damaged").mkdir()
    (folder.parent / "damaged" / "config.json").write_text("{")
    answer = feddtl("status")
    assert answer.code == 1
    assert [line for line in answer.out.splitlines() if not line.startswith(" ")] == [
        f"runs/{name}: is not running, after round 2 of 4" for name in ("second", "first")
    ]
    assert "damaged/config.json" in answer.err
    entries = json.loads(feddtl("status", "--json").out)
    assert [(entry["folder"], entry["state"], entry["accuracy"]["base"]) for entry in entries] == [
        (f"runs/{name}", "unknown", 61.7) for name in ("second", "first")
    ]


def test_a_stop_before_the_run_began_leaves_nothing(feddtl, folder, monkeypatch):
    """The run removes its folder, as it does after any error that early."""
    import shutil

    monkeypatch.setattr(run_following, "_session", lambda path: (bool(shutil.rmtree(path)), ()))
    monkeypatch.setattr(run_following, "chosen_run", lambda path, running: path)
    answer = feddtl("stop", folder)
    assert answer.code == 0
    assert "ended before it began, and left nothing" in answer.out


def test_a_damaged_summary_is_no_end_of_a_run(folder):
    (folder / "summary.json").write_text('{"rounds": 1, "sha256": 3}')
    with pytest.raises(RunError, match=r"summary\.json is damaged: its checksum is missing") as caught:
        run_status(folder)
    assert "rm" in caught.value.hint
    assert "--resume" in caught.value.hint


def test_a_run_over_flower_is_resumed_there(feddtl, tmp_path):
    """Its images are on the clients, so `feddtl run` has none."""
    data = DataConfig(source="clients", classes="ant,bee", clients=2)
    (tmp_path / "run").mkdir()
    write_sealed(tmp_path / "run" / "config.json", experiment_to_dict(Experiment(data=data)))
    answer = feddtl("run", "--resume", tmp_path / "run")
    refused(answer, "are on its clients, so it runs over Flower", f"feddtl submit --resume {tmp_path / 'run'}")
