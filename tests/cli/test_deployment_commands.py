"""`feddtl keys`, `server`, `client` and `submit`: what is refused before anything starts.

Whole federations are in tests/distributed.
"""

from __future__ import annotations

import json
import socket

import pytest
from cli.small_runs import refused, summary

from feddtl.errors import DeploymentError
from feddtl.launch.processes import free_port
from feddtl.run_log import append_event, begin_session


@pytest.fixture(autouse=True)
def flower_is_there(monkeypatch, tmp_path):
    """None of these commands gets as far as to need it."""
    monkeypatch.setattr("feddtl.launch.processes.require_flower", lambda: None)
    monkeypatch.setenv("FEDDTL_STATE", str(tmp_path / "state"))


@pytest.fixture
def keys(tmp_path):
    folder = tmp_path / "keys"
    for name in ("server/ca.crt", "server/server.crt", "server/server.key", "server/clients/client-0.pub"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name in ("ca.crt", "node.key"):
        (folder / "client-0").mkdir(exist_ok=True)
        (folder / "client-0" / name).touch()
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("keys", "somewhere"),
        ("server", "--keys", "somewhere"),
        ("client", "--id", "0", "--server", "localhost:9092", "--keys", "somewhere"),
        ("submit", "--output", "out"),
    ],
)
def test_each_says_where_flower_comes_from(feddtl, monkeypatch, tmp_path, words):
    def require():
        raise DeploymentError("This command needs Flower, which is not installed here.", "Install it.")

    monkeypatch.setattr("feddtl.launch.processes.require_flower", require)
    refused(feddtl(*words), "needs Flower")
    assert list(tmp_path.iterdir()) == []


def test_a_server_without_its_keys(feddtl, tmp_path):
    refused(feddtl("server", "--keys", tmp_path / "nowhere"), "There is no", "feddtl keys")


def test_a_port_that_another_process_has(feddtl, keys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(feddtl("server", "--keys", keys, "--port", port), f"127.0.0.1:{port}", "--port")


def test_an_address_of_another_machine(feddtl, keys):
    """192.0.2.0/24 is for documentation alone."""
    refused(
        feddtl("server", "--keys", keys, "--host", "192.0.2.1", "--port", free_port()), "Cannot listen on 192.0.2.1"
    )


@pytest.mark.parametrize(
    ("flag", "value", "needle"),
    [
        ("--port", "0", "--port is 0"),
        ("--port", "70000", "--port is 70000"),
        ("--port", "-1", "--port is -1"),
        ("--host", "a..b", "--host is 'a..b'"),
        ("--host", "", "--host is ''"),
    ],
)
def test_an_address_that_is_none(feddtl, keys, tmp_path, flag, value, needle):
    refused(feddtl("server", "--keys", keys, flag, value), needle)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("flag", "value", "needle"),
    [
        ("--data", "nowhere", "--data nowhere does not exist"),
        ("--model", "nowhere", "--model nowhere does not exist"),
        ("--server", "localhost", "not HOST:PORT"),
        ("--server", "a..b:9092", "not HOST:PORT"),
        ("--id", "-1", "--id is -1"),
        ("--id", "5", "There is no"),
        ("--keys", "nowhere", "There is no"),
    ],
)
def test_a_client_that_cannot_be(feddtl, keys, tmp_path, flag, value, needle):
    flags = {"--id": "0", "--server": "localhost:9092", "--keys": keys, flag: value}
    if flag == "--id" and value == "-1":
        (keys / "client-0").rename(keys / "client--1")
    refused(feddtl("client", *(word for pair in flags.items() for word in pair)), needle)
    assert not (tmp_path / "state").exists()


def test_a_run_needs_a_folder_and_one_only(feddtl, finished):
    refused(feddtl("submit"), "--output")
    refused(feddtl("submit", "--output", "out", "--resume", finished), "both given")


def test_a_run_needs_a_server_of_this_machine(feddtl):
    refused(feddtl("submit", "--output", "out"), "No `feddtl server`", "--state")


@pytest.mark.parametrize("flags", [("--resume",), ("--output", "out", "--init-from")])
def test_the_run_to_resume_or_to_start_from_must_be_there(feddtl, tmp_path, flags):
    refused(feddtl("submit", *flags, tmp_path / "nowhere"), "There is no run")


def test_what_was_submitted_is_shown_as_a_run_is(feddtl, finished, monkeypatch):
    """The settings of a run that goes on are its own."""
    asked = []

    def submit(state, experiment, output, *, resume, track, show):
        asked.append((experiment.rounds, output, resume))
        show("round 1/4 sft")

    monkeypatch.setattr("feddtl.launch.submission.submit", submit)
    answer = feddtl("submit", "--resume", finished)
    assert asked == [(4, finished, True)]
    assert (answer.code, answer.err) == (0, "round 1/4 sft\n")
    assert f"run folder: {finished}" in answer.out
    quiet = feddtl("submit", "--resume", finished, "--json")
    assert json.loads(quiet.out) == summary(finished)
    assert quiet.err == ""


@pytest.mark.parametrize("begun", [True, False])
def test_an_interrupted_run_says_how_to_go_on(feddtl, tmp_path, monkeypatch, begun):
    """One that waited for its turn left nothing to go on from."""

    def submit(*arguments, **settings):
        if begun:
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "config.json").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("feddtl.launch.submission.submit", submit)
    answer = feddtl("submit", "--output", "out")
    assert answer.code == 130
    assert ("`feddtl submit --resume out`" in answer.err) == begun
    assert ("the run had not begun" in answer.err) != begun


def test_a_run_that_feddtl_stop_ended_says_how_to_go_on(feddtl, tmp_path, monkeypatch):
    """Its server has ended it well, without a summary."""

    def submit(*arguments, **settings):
        (tmp_path / "out").mkdir()
        begin_session(tmp_path / "out", remote=True)
        append_event(tmp_path / "out", "ended", how="stopped", text="Stopped after round 2.", hint="Resume it.")

    monkeypatch.setattr("feddtl.launch.submission.submit", submit)
    answer = feddtl("submit", "--output", "out")
    assert (answer.code, answer.out, answer.err) == (130, "", "Stopped after round 2. Resume it.\n")
