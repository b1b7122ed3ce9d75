"""Following a run: its log may break off, its end is what counts."""

from __future__ import annotations

import sys

import pytest

from feddtl.errors import DeploymentError
from feddtl.launch import submission
from feddtl.launch.flower_cli import RunStatus, UnknownRunError

FINISHED = RunStatus("finished:completed", "")
RUNNING = RunStatus("running", "")
BUSY = DeploymentError("The server does not say how run 1 stands.")


class BrokenLog:
    """A server whose log of a run breaks off after a few lines, and begins anew when it is asked for again.

    Args:
        logs: What each log command prints.
        states: What the server says of the run, one for each time it is asked; an exception is raised.
    """

    def __init__(self, folder, logs, states):
        self.home = self.folder = folder
        self.logs, self.states = list(logs), list(states)

    def log_command(self, run):
        return [sys.executable, "-c", f"print({self.logs.pop(0)!r})"]

    def status(self, run):
        state = self.states.pop(0)
        if isinstance(state, Exception):
            raise state
        return state

    def by_hand(self, run):
        return f"flwr stop {run}"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(submission, "SECONDS_TO_FINISH", 0.0)
    monkeypatch.setattr(submission, "SECONDS_BETWEEN_LOOKS", 0.0)


def follow(cli):
    told = []
    return submission._follow(cli, 1, told.append), told


def test_a_log_that_breaks_off_is_taken_up_where_it_was(tmp_path):
    cli = BrokenLog(tmp_path, ["round 1\nINFO : Flower's\nround 2", "round 1\nround 2\nround 3"], [RUNNING, FINISHED])
    assert follow(cli) == (FINISHED, ["round 1", "round 2", "round 3"])


def test_a_log_that_is_shorter_the_second_time_is_not_repeated_the_third(tmp_path):
    cli = BrokenLog(tmp_path, ["a\nb", "a", "a\nb\nc"], [RUNNING, RUNNING, FINISHED])
    assert follow(cli) == (FINISHED, ["a", "b", "c"])


def test_a_server_that_is_busy_for_a_moment_is_asked_again(tmp_path):
    cli = BrokenLog(tmp_path, ["a"], [BUSY, BUSY, FINISHED])
    assert follow(cli) == (FINISHED, ["a"])


def test_a_server_that_is_gone_ends_it_and_leaves_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(submission, "SECONDS_WITHOUT_ANSWER", -1.0)
    with pytest.raises(DeploymentError, match=r"Run 1 .* may still be going on.* does not say") as caught:
        follow(BrokenLog(tmp_path, ["a"], [BUSY]))
    assert caught.value.hint == "flwr stop 1"


def test_a_run_that_the_server_does_not_have_is_not_asked_for_again(tmp_path):
    with pytest.raises(UnknownRunError, match="does not know run 1"):
        follow(BrokenLog(tmp_path, ["a"], [UnknownRunError("The server does not know run 1.")]))
