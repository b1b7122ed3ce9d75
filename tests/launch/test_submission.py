"""How a run is submitted, how it is followed although its log may break off, and how its end is reported."""

from __future__ import annotations

import json
import os
import signal
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from launch.fake_programs import fake_program

from feddtl.config import DataConfig, Experiment
from feddtl.errors import DeploymentError
from feddtl.experiment_file import experiment_from_dict
from feddtl.launch import submission
from feddtl.launch.connection import Address, write_connection
from feddtl.launch.processes import FlowerCli, ended_by_sigterm
from feddtl.launch.submission import RunStatus, submit

FOLDER_APP = Path(__file__).parents[2] / "integrations" / "flower" / "pyproject.toml"
# Takes a run, prints a log, and says how it ended; what it was given is kept.
FLWR = """
import os, shutil, time
open(CALLS, "a").write(json.dumps([*sys.argv[1:], os.getsid(0)]) + "\\n")
word = sys.argv[1]
if word == "run":
    if SIGNAL:
        os.kill(os.getppid(), SIGNAL)
        time.sleep(0.5)
    shutil.copy(sys.argv[sys.argv.index("--run-config") + 1], CALLS + ".run.toml")
    shutil.copytree(sys.argv[2], CALLS + ".app")
    print(json.dumps({"success": True, "run-id": "7"}))
elif word == "log":
    print("\\x1b[92mINFO \\x1b[0m:      Start `flwr-serverapp` process")
    print("Successfully installed feddtl to /here.")
    print("feddtl: round 1/2 sft")
    print(TRACEBACK, end="")
elif word == "ls":
    print(json.dumps({"runs": [{"status": STATUS, "status-details": DETAILS}]}))
elif word == "stop":
    print(json.dumps({"success": STOPS}))
"""

FINISHED = RunStatus("finished:completed", "")
RUNNING = RunStatus("running", "")
BUSY = "Connection to the SuperLink is unavailable."
UNKNOWN = "[code: 16] Run ID not found."
ACCEPTED = "run 7 was accepted; it starts when the clients, which may be busy with another run, have answered"


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, also if the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """State folder of a server that ends runs in a given way."""

    def make(
        status: str = "finished:completed", details: str = "", traceback: str = "", sent: int = 0, stops: bool = True
    ) -> Path:
        body = f"STATUS, DETAILS, TRACEBACK = {status!r}, {details!r}, {traceback!r}\n"
        body += f"SIGNAL, STOPS = {int(sent)}, {stops}\n{FLWR}"
        make.calls = fake_program(tmp_path / "bin", "flwr", body, monkeypatch)
        home = tmp_path / "state" / "flower"
        home.mkdir(parents=True)
        write_connection(home, Address("localhost", 9092), home / "ca.crt")
        monkeypatch.setattr("feddtl.launch.connection.unreachable", lambda address, authority: "")
        return home.parent

    return make


def calls(path: Path) -> list[list[str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_experiment_is_sent_as_resolved_settings(server, tmp_path, monkeypatch):
    """No experiment file is sent."""
    monkeypatch.chdir(tmp_path)
    experiment = Experiment(rounds=7, model='Größe "14"', data=DataConfig(source="someone/pictures"))
    shown = []
    submit(server(), experiment, Path("out"), resume=True, show=shown.append, track=["tensorboard"])
    values = tomllib.loads(Path(f"{server.calls}.run.toml").read_text(encoding="utf-8"))
    assert values["output"] == str(tmp_path / "out")
    assert values["resume"] is True
    assert values["track"] == "tensorboard"
    assert experiment_from_dict(json.loads(values["settings"])) == experiment
    assert shown == [ACCEPTED, "round 1/2 sft"]
    assert [words[0] for words in calls(server.calls)] == ["run", "log", "ls"]


def test_a_run_that_failed_is_an_error_with_its_reason(server, tmp_path):
    """Flower's traceback is left out: the server marks the reason, and the traceback of an unexpected error."""
    state = server(
        "finished:failed",
        "ServerApp failed with exception: feddtl: out holds a run.\nGive another --output.",
        "ERROR :     ServerApp raised an exception\nTraceback (most recent call last):\nfeddtl.errors.RunError: used\n",
    )
    shown = []
    with pytest.raises(DeploymentError) as caught:
        submit(state, Experiment(), tmp_path, resume=False, show=shown.append)
    assert caught.value.message == "The run ended as finished:failed: out holds a run."
    assert caught.value.hint == "Give another --output."
    assert shown == [ACCEPTED, "round 1/2 sft"]


def test_a_failure_outside_of_feddtl_is_shown_with_flowers_details(server, tmp_path):
    with pytest.raises(DeploymentError, match="finished:failed: No heartbeat") as caught:
        submit(server("finished:failed", "No heartbeat"), Experiment(), tmp_path, resume=False, show=print)
    assert "feddtl submit --resume" in caught.value.hint


def test_only_the_lines_of_feddtl_are_shown(server, tmp_path):
    note = "note: Client 1: ERROR : ServerApp raised an exception"
    shown = []
    state = server("finished:completed", "", f"WARNING : old\nfeddtl: {note}\nodd\nfeddtl: round 2/2 sft\n")
    submit(state, Experiment(), tmp_path, resume=False, show=shown.append)
    assert shown[-2:] == [note, "round 2/2 sft"]


def test_a_run_that_ended_without_details_can_be_resumed(server, tmp_path):
    with pytest.raises(DeploymentError, match=r"finished:stopped\.") as caught:
        submit(server("finished:stopped"), Experiment(), tmp_path, resume=False, show=print)
    assert "feddtl submit --resume" in caught.value.hint


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_an_interruption_stops_the_run(server, tmp_path, end):
    def show(line: str) -> None:
        raise end

    with pytest.raises(end):
        submit(server(), Experiment(), tmp_path, resume=False, show=show)
    assert calls(server.calls)[-1][:2] == ["stop", "7"]


@pytest.mark.parametrize(("number", "end"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_an_interruption_before_the_run_has_an_id_stops_it_too(server, interruptible, tmp_path, number, end):
    """`flwr run` finishes first, because the server may have accepted the run. Ctrl-C does not reach it."""
    state = server(sent=number)
    with pytest.raises(end), ended_by_sigterm(143):
        submit(state, Experiment(), tmp_path, resume=False, show=print)
    assert [words[0] for words in calls(server.calls)] == ["run", "stop"]
    assert calls(server.calls)[1][1] == "7"
    assert os.getsid(0) not in {words[-1] for words in calls(server.calls)}


def test_an_interruption_that_cannot_stop_the_run_is_an_error(server, interruptible, tmp_path):
    with pytest.raises(DeploymentError, match="Run 7 may still be running"):
        submit(server(sent=signal.SIGINT, stops=False), Experiment(), tmp_path, resume=False, show=print)


def test_submitting_waits_for_a_server_that_has_just_been_started(server, tmp_path, monkeypatch):
    state, answers, shown = server(), iter(["Connection refused", "Connection refused", ""]), []
    monkeypatch.setattr("feddtl.launch.connection.unreachable", lambda address, authority: next(answers))
    monkeypatch.setattr("feddtl.launch.submission.SECONDS_BETWEEN_ATTEMPTS", 0.0)
    submit(state, Experiment(), tmp_path, resume=False, show=shown.append)
    assert shown == ["waiting for the server at localhost:9092", ACCEPTED, "round 1/2 sft"]


def test_a_server_that_ended_is_named_and_nothing_is_sent(server, tmp_path, monkeypatch):
    state = server()
    monkeypatch.setattr("feddtl.launch.connection.unreachable", lambda address, authority: "Connection refused")
    monkeypatch.setattr("feddtl.launch.submission.SECONDS_TO_REACH", -1.0)
    with pytest.raises(DeploymentError, match=r"localhost:9092: Connection refused; nothing was submitted"):
        submit(state, Experiment(), tmp_path, resume=False, show=print)
    assert not server.calls.exists()


@pytest.mark.parametrize("content", ["", "[superlink", "superlink = 1", "[superlink.feddtl]\naddress = 'here'"])
def test_a_connection_that_is_damaged_is_named(server, tmp_path, content):
    state = server()
    (state / "flower" / "config.toml").write_text(content)
    with pytest.raises(DeploymentError, match=r"config\.toml does not name the server") as caught:
        submit(state, Experiment(), tmp_path, resume=False, show=print)
    assert "--state" in caught.value.hint


def test_without_a_server_nothing_is_sent(tmp_path):
    with pytest.raises(DeploymentError, match="No `feddtl server`") as caught:
        submit(tmp_path, Experiment(), tmp_path / "out", resume=False, show=print)
    assert "--state" in caught.value.hint


def test_the_app_has_the_settings_of_the_folder_and_modules_that_exist():
    """The folder's modules re-export the apps that the description names."""
    ours = tomllib.loads(submission.APP.format(version="1.0"))["tool"]["flwr"]["app"]
    theirs = tomllib.loads(FOLDER_APP.read_text())["tool"]["flwr"]["app"]
    assert ours["config"] == theirs["config"]
    assert ours["components"].keys() == theirs["components"].keys()
    for name, component in ours["components"].items():
        module, _, attribute = component.partition(":")
        assert find_spec(module) is not None
        theirs_module = FOLDER_APP.parent / theirs["components"][name].partition(":")[0].replace(".", "/")
        assert f"from {module} import {attribute}\n" in theirs_module.with_suffix(".py").read_text()


# Prints the next of several logs.
LOG = """
open(CALLS, "a").write("log\\n")
print("INFO : Flower's own")
for word in LOGS[len(open(CALLS).readlines()) - 1].split():
    print("feddtl: " + word)
"""


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """Follows a run whose log breaks off after a few lines, and starts from the first line when requested again."""
    monkeypatch.setattr(submission, "SECONDS_TO_FINISH", 0.0)
    monkeypatch.setattr(submission, "SECONDS_BETWEEN_CHECKS", 0.0)

    def run(logs, states):
        """The status at the end, and the lines that were shown; a state is a run's status or an error."""
        fake_program(tmp_path / "bin", "flwr", f"LOGS = {logs!r}\n{LOG}", monkeypatch)
        monkeypatch.setattr(FlowerCli, "call", lambda cli, *words: answer(states.pop(0)))
        shown = []
        return submission._follow(FlowerCli(tmp_path, tmp_path), 1, shown.append), shown

    return run


def answer(state):
    if isinstance(state, RunStatus):
        return {"runs": [{"status": state.status, "status-details": state.details}]}, ""
    return {}, state


def test_a_log_that_breaks_off_is_continued(follow):
    assert follow(["1 2", "1 2 3"], [RUNNING, FINISHED]) == (FINISHED, ["1", "2", "3"])


def test_a_log_that_is_shorter_the_second_time_is_not_repeated_the_third(follow):
    assert follow(["a b", "a", "a b c"], [RUNNING, RUNNING, FINISHED]) == (FINISHED, ["a", "b", "c"])


def test_a_server_that_is_busy_for_a_moment_is_asked_again(follow):
    assert follow(["a"], [BUSY, BUSY, FINISHED]) == (FINISHED, ["a"])


def test_a_server_that_has_ended_ends_the_command_and_leaves_the_run(follow, monkeypatch):
    monkeypatch.setattr(submission, "SECONDS_WITHOUT_ANSWER", -1.0)
    with pytest.raises(DeploymentError, match=r"Run 1 .* may still be running.* does not report") as caught:
        follow(["a"], [BUSY])
    assert "flwr stop 1 feddtl" in caught.value.hint


def test_a_run_that_the_server_does_not_have_is_not_asked_for_again(follow):
    with pytest.raises(DeploymentError, match="does not know run 1"):
        follow(["a"], [UNKNOWN])
