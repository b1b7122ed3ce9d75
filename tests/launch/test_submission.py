"""What travels with a run, and what its end is told as."""

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
from feddtl.launch.connection import Address
from feddtl.launch.flower_cli import FlowerCli
from feddtl.launch.processes import ended_by_sigterm
from feddtl.launch.submission import submit

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
    print("round 1/2 sft")
    print(TRACEBACK, end="")
elif word == "ls":
    print(json.dumps({"runs": [{"status": STATUS, "status-details": DETAILS}]}))
elif word == "stop":
    print(json.dumps({"success": STOPS}))
"""

ACCEPTED = "run 7 was accepted: it is loaded, then asks its clients, which may be busy with another run"


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, also where the tests themselves were started in the background."""
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
        FlowerCli(home, home).connect_to(Address("localhost", 9092), home / "ca.crt")
        monkeypatch.setattr("feddtl.launch.flower_cli.unreachable", lambda address, authority: "")
        return home.parent

    return make


def calls(path: Path) -> list[list[str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_experiment_travels_resolved(server, tmp_path, monkeypatch):
    """No file is named."""
    monkeypatch.chdir(tmp_path)
    experiment = Experiment(rounds=7, model='Größe "14"', data=DataConfig(source="someone/pictures"))
    told = []
    submit(server(), experiment, Path("out"), resume=True, tell=told.append, track=["tensorboard"])
    values = tomllib.loads(Path(f"{server.calls}.run.toml").read_text(encoding="utf-8"))
    assert values["output"] == str(tmp_path / "out")
    assert values["resume"] is True
    assert values["track"] == "tensorboard"
    assert experiment_from_dict(json.loads(values["settings"])) == experiment
    assert told == [ACCEPTED, "round 1/2 sft"]
    assert [words[0] for words in calls(server.calls)] == ["run", "log", "ls"]


@pytest.mark.parametrize(("error", "shown"), [("feddtl.errors.RunError: used", False), ("ValueError: odd", True)])
def test_a_run_that_failed_is_an_error_with_its_reason(server, tmp_path, error, shown):
    """The traceback is for errors that nobody foresaw alone."""
    state = server(
        "finished:failed",
        "ServerApp failed with exception: out holds a run.\nGive another --output.",
        f"ERROR :     ServerApp raised an exception\nTraceback (most recent call last):\n{error}\n",
    )
    told = []
    with pytest.raises(DeploymentError) as caught:
        submit(state, Experiment(), tmp_path, resume=False, tell=told.append)
    assert caught.value.message == "The run ended as finished:failed: out holds a run."
    assert caught.value.hint == "Give another --output."
    assert told[:2] == [ACCEPTED, "round 1/2 sft"]
    assert (error in told) == shown


def test_what_a_client_says_is_not_taken_for_flowers_own_words(server, tmp_path):
    note = "note: Client 1: ERROR : ServerApp raised an exception"
    told = []
    state = server("finished:completed", "", f"{note}\nround 2/2 sft\nfeddtl.errors.RunError: no\n")
    submit(state, Experiment(), tmp_path, resume=False, tell=told.append)
    assert told[-3:] == [note, "round 2/2 sft", "feddtl.errors.RunError: no"]


def test_a_run_that_ended_without_a_word_can_go_on(server, tmp_path):
    with pytest.raises(DeploymentError, match=r"finished:stopped\.") as caught:
        submit(server("finished:stopped"), Experiment(), tmp_path, resume=False, tell=print)
    assert "feddtl submit --resume" in caught.value.hint


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_who_is_interrupted_stops_the_run(server, tmp_path, end):
    def tell(line: str) -> None:
        raise end

    with pytest.raises(end):
        submit(server(), Experiment(), tmp_path, resume=False, tell=tell)
    assert calls(server.calls)[-1][:2] == ["stop", "7"]


@pytest.mark.parametrize(("number", "end"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_who_is_interrupted_before_the_run_has_a_number_stops_it_too(server, interruptible, tmp_path, number, end):
    """The start is let finish: the server may have taken the run. A terminal's Ctrl-C does not reach `flwr`."""
    state = server(sent=number)
    with pytest.raises(end), ended_by_sigterm(143):
        submit(state, Experiment(), tmp_path, resume=False, tell=print)
    assert [words[0] for words in calls(server.calls)] == ["run", "stop"]
    assert calls(server.calls)[1][1] == "7"
    assert os.getsid(0) not in {words[-1] for words in calls(server.calls)}


def test_who_is_interrupted_and_cannot_stop_the_run_is_told(server, interruptible, tmp_path):
    with pytest.raises(DeploymentError, match="Run 7 may still be going on"):
        submit(server(sent=signal.SIGINT, stops=False), Experiment(), tmp_path, resume=False, tell=print)


def test_a_server_that_was_started_a_moment_ago_is_waited_for(server, tmp_path, monkeypatch):
    state, answers, told = server(), iter(["Connection refused", "Connection refused", ""]), []
    monkeypatch.setattr("feddtl.launch.flower_cli.unreachable", lambda address, authority: next(answers))
    monkeypatch.setattr("feddtl.launch.flower_cli.SECONDS_BETWEEN_LOOKS", 0.0)
    submit(state, Experiment(), tmp_path, resume=False, tell=told.append)
    assert told == ["waiting for the server at localhost:9092", ACCEPTED, "round 1/2 sft"]


def test_a_server_that_ended_is_named_and_nothing_is_sent(server, tmp_path, monkeypatch):
    state = server()
    monkeypatch.setattr("feddtl.launch.flower_cli.unreachable", lambda address, authority: "Connection refused")
    monkeypatch.setattr("feddtl.launch.flower_cli.SECONDS_TO_WAIT", -1.0)
    with pytest.raises(DeploymentError, match=r"localhost:9092: Connection refused; nothing was submitted"):
        submit(state, Experiment(), tmp_path, resume=False, tell=print)
    assert not server.calls.exists()


@pytest.mark.parametrize("content", ["", "[superlink", "superlink = 1", "[superlink.feddtl]\naddress = 'here'"])
def test_a_connection_that_is_damaged_is_named(server, tmp_path, content):
    state = server()
    (state / "flower" / "config.toml").write_text(content)
    with pytest.raises(DeploymentError, match=r"config\.toml does not say where the server is") as caught:
        submit(state, Experiment(), tmp_path, resume=False, tell=print)
    assert "--state" in caught.value.hint


def test_without_a_server_nothing_is_sent(tmp_path):
    with pytest.raises(DeploymentError, match="No `feddtl server`") as caught:
        submit(tmp_path, Experiment(), tmp_path / "out", resume=False, tell=print)
    assert "--state" in caught.value.hint


def test_the_app_has_the_settings_of_the_folder_and_modules_that_exist():
    """The folder's modules hand on the ones that the app names."""
    ours = tomllib.loads(submission.APP.format(version="1.0"))["tool"]["flwr"]["app"]
    theirs = tomllib.loads(FOLDER_APP.read_text())["tool"]["flwr"]["app"]
    assert ours["config"] == theirs["config"]
    assert ours["components"].keys() == theirs["components"].keys()
    for name, component in ours["components"].items():
        module, _, attribute = component.partition(":")
        assert find_spec(module) is not None
        theirs_module = FOLDER_APP.parent / theirs["components"][name].partition(":")[0].replace(".", "/")
        assert f"from {module} import {attribute}\n" in theirs_module.with_suffix(".py").read_text()
