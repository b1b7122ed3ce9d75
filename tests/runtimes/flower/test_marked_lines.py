"""What feddtl prints inside Flower's processes: marked lines, which can be told from Flower's."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("flwr", reason="needs the extra [flower]: make test-flower")

from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from feddtl.config import Experiment
from feddtl.errors import RunError, StoppedError
from feddtl.experiment_file import experiment_to_dict
from feddtl.flower_app import server
from feddtl.marked_lines import MARK, say, unmarked
from feddtl.runtimes.flower.apps import client_app, server_app
from feddtl.runtimes.flower.records import to_records
from feddtl.runtimes.wire.contract import Parcel


def ask(app, kind, round_number=0, **scalars):
    """Send a message of run 1 to node 100, client 2."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    message = Message(to_records(Parcel({}, scalars)), 100, kind, group_id=str(round_number))
    message.metadata.__dict__["_run_id"] = 71
    return app(message, Context(71, 100, {"partition-id": 2}, RecordDict(), {}))


def test_every_line_of_a_text_is_marked(capsys):
    say("one\ntwo\n")
    assert capsys.readouterr().err == f"{MARK}one\n{MARK}two\n"
    assert unmarked(f"{MARK}one\n") == "one"
    assert unmarked("INFO : feddtl: one\n") is None


def test_a_client_says_what_it_works_on(capsys):
    app = client_app(lambda request, node, parcel: Parcel({}, {}))
    for kind in ("query", "train", "evaluate"):
        ask(app, kind, round_number=3)
    assert capsys.readouterr().err.splitlines() == [
        "feddtl: run 71 asks whether this client, node 100, can take part",
        "feddtl: run 71, round 3: training",
        "feddtl: run 71, round 3: sending the update",
        "feddtl: run 71: scoring the final model",
        "feddtl: run 71 is finished; the client waits for the next run",
    ]


def test_a_client_is_told_why_a_run_has_ended_and_answers_with_nothing(capsys):
    """On one line, in printable characters: a server cannot command the client's terminal."""
    app = client_app(lambda request, node, parcel: pytest.fail("asked"))
    reply = ask(app, "query", farewell="stopped after\x1b[2J round 2.\nfeddtl: lies")
    assert not reply.content.config_records["scalars"]
    assert capsys.readouterr().err == "feddtl: run 71 has ended: stopped after[2J round 2. feddtl: lies\n"


def fails_with(error):
    def fail(*arguments):
        raise error

    return fail


def test_a_client_that_cannot_take_part_says_why(capsys):
    ask(client_app(fails_with(RunError("The disk is full.", "Delete files."))), "train", round_number=3)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "feddtl: client 2 cannot participate in this run: The disk is full.",
        "feddtl: Delete files.",
    ]


def test_the_traceback_of_an_error_nobody_foresaw_is_shown(capsys):
    with pytest.raises(ZeroDivisionError):
        ask(client_app(fails_with(ZeroDivisionError("odd"))), "train")
    with pytest.raises(ZeroDivisionError):
        server_app(fails_with(ZeroDivisionError("odd")))(None, Context(1, 1, {}, RecordDict(), {}))
    lines = capsys.readouterr().err.splitlines()
    assert lines.count("feddtl: Traceback (most recent call last):") == 2
    assert lines.count("feddtl: ZeroDivisionError: odd") == 2


def test_the_reason_why_a_run_fails_is_marked_for_the_command_that_submitted_it(capsys):
    with pytest.raises(RunError) as caught:
        server_app(fails_with(RunError("out holds a run.", "Name another.")))(None, Context(1, 1, {}, RecordDict(), {}))
    assert str(caught.value) == "feddtl: out holds a run.\nName another."
    assert capsys.readouterr().err == ""


def test_a_run_that_was_stopped_has_ended_well_for_flower(monkeypatch, capsys, tmp_path):
    """No traceback in the server's terminal; `feddtl submit` reads from the log of the run that it was stopped."""

    def stop(*arguments, **named):
        raise StoppedError("Stopped after round 2.", "Resume it.")

    monkeypatch.setattr(server, "serve", stop)
    settings = {"settings": json.dumps(experiment_to_dict(Experiment())), "output": str(tmp_path / "run")}
    server.serve_run_config(None, settings)
    assert capsys.readouterr().err.splitlines()[-1] == "feddtl: Stopped after round 2. Resume it."
