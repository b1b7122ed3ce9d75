"""A reply that cannot be used, or none: it costs its update, and the record says why."""

from __future__ import annotations

import re
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest

pytest.importorskip("flwr", reason="needs the extra [flower]: make test-flower")

from cli.small_runs import records
from flwr.app import ArrayRecord, Message
from flwr.app.message import Array
from runtimes.flower.flower_runs import Notes, grid_of, in_round, short, with_scalar

from feddtl import deployment
from feddtl.config import DeploymentConfig
from feddtl.errors import ClientError, StoppedError
from feddtl.run_following import ask_to_stop
from feddtl.run_status import run_status


def with_array(reply: Message, name: str, array: np.ndarray) -> Message:
    arrays = dict(reply.content.array_records["arrays"])
    reply.content["arrays"] = ArrayRecord({**arrays, name: Array(array)})
    return reply


def with_nan(reply):
    [name, array] = next(iter(reply.content.array_records["arrays"].items()))
    values = array.numpy().copy()
    values.flat[0] = np.nan
    return with_array(reply, name, values)


def with_wrong_shape(reply):
    [name, array] = next(iter(reply.content.array_records["arrays"].items()))
    return with_array(reply, name, array.numpy()[:-1])


def with_wrong_label(reply):
    labels = reply.content.array_records["arrays"]["samples/labels"].numpy().copy()
    labels[0] = 3
    return with_array(reply, "samples/labels", labels)


def huge(reply):
    [name, array] = next(iter(reply.content.array_records["arrays"].items()))
    return with_array(reply, name, np.full_like(array.numpy(), 1e4))


def broken_bytes(reply):
    array = next(iter(reply.content.array_records["arrays"].values()))
    array.data = array.data[:-3]
    return reply


def with_bytes(data):
    """The first array's bytes replaced by what NumPy's reader fails at in a way of its own."""

    def tamper(reply):
        next(iter(reply.content.array_records["arrays"].values())).data = data
        return reply

    return tamper


def npy(header: bytes) -> bytes:
    """A .npy file of a header and no data."""
    return b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n"


def archive() -> bytes:
    content = BytesIO()
    np.savez(content, values=np.zeros(3))
    return content.getvalue()


def with_metric(name):
    def tamper(reply):
        reply.content["metrics"][name] = 1.0
        return reply

    return tamper


def without_records(reply):
    del reply.content["arrays"]
    return reply


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (with_nan, "holds NaN or infinite values"),
        (with_wrong_shape, "has the shape"),
        (with_wrong_label, "holds class 3, which is not among 0 to 2"),
        (with_scalar("classes", "0" * 64), "different classes"),
        (with_scalar("model", "0" * 64), "a different CLIP"),
        (with_scalar("schema", 1), "schema is 1, not 5"),
        (with_scalar("global_base_images", 99), "global_base_images is 99, not 3"),
        (with_scalar("global_novel_images", 1), "global_novel_images is 1, not 0"),
        (with_scalar("global_base", 4), "global_base is 4 of 3 images"),
        (with_scalar("own_base", -1), "own_base is -1, not a whole number"),
        (with_scalar("own_base", 0.5), "own_base is 0.5, not a whole number"),
        (with_scalar("images", 10**9), "images is 1000000000, not"),
        (with_scalar("round", 1), "round is 1, not 2"),
        (huge, "away from what was broadcast"),
        (broken_bytes, "The records cannot be read"),
        (without_records, "The records cannot be read"),
        (with_bytes(npy(b"{'descr': (")), "The records cannot be read"),
        (with_bytes(npy(b"{'descr': (), 'fortran_order': False, 'shape': (2,)}")), "The records cannot be read"),
        (with_bytes(npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d,)}" % 10**31)), "cannot be read"),
        (with_bytes(b"PK\x03\x04 and no archive"), "The records cannot be read"),
        (with_bytes(archive()), "NpzFile in place of an array"),
        (with_metric("loss\nround 20/20"), "The metric 'loss round 20/20' has a name that is not"),
        (with_metric("x" * 65), "The metric 'xxxxxxxxxxxx…' has a name that is not"),
        (with_scalar("round", [1, 2]), "round is [1, 2], not a whole number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_reply_costs_its_update_and_is_named(bench, tmp_path, tamper, reason):
    """Client 1 in round 2; the two others go on."""
    notes = Notes()
    grid = grid_of(after=in_round(2, 1, tamper))
    deployment.serve(short(bench), tmp_path / "run", grid, observer=notes)
    first, second = records(tmp_path / "run")
    assert (first["lost"], second["lost"], list(second["train_by_client"])) == ([], [1], ["0", "2"])
    assert "failures" not in first
    assert reason in second["failures"]["1"]
    assert any(line.startswith("Round 2 continues without client 1: ") and reason in line for line in notes.lines)


def test_a_round_that_ran_out_of_time_names_the_clients_the_seconds_and_the_setting(bench, tmp_path):
    """Clients 0 and 2 do not reply in round 2; another one did, at once."""
    lose = {client: in_round(2, client, lambda reply: None) for client in (0, 2)}
    notes, grid = Notes(), grid_of(after=lambda client, reply: lose.get(client, lambda c, r: r)(client, reply))
    experiment = replace(short(bench), deployment=DeploymentConfig(round_timeout=0.2, min_clients=1))
    deployment.serve(experiment, tmp_path / "run", grid, observer=notes)
    reason = "no reply within 0.2 seconds (deployment.round_timeout)."
    assert records(tmp_path / "run")[1]["failures"] == {"0": reason, "2": reason}
    [said] = [line for line in notes.lines if "ran out of time" in line]
    assert said.startswith(
        "Round 2 ran out of time: after 0.2 seconds (deployment.round_timeout) there was no reply from clients "
        "0 and 2, and it continues without. The slowest of the others replied after "
    )
    assert re.search(r" replied after \d+\.\d s\. ", said)  # 0.1 s on an idle machine


def test_a_run_that_is_stopped_tells_its_clients_and_goes_on_when_resumed(bench, tmp_path, capsys):
    """The request comes in round 1; client 1 is not connected, and the run's log says so."""
    run = tmp_path / "run"

    def ask(client, message):
        ask_to_stop(run)

    with pytest.raises(StoppedError, match="stopped after round 1 of 2"):
        deployment.serve(short(bench), run, grid_of([0, 2], before=ask))
    told = "feddtl: run 1 has ended: The run was stopped after round 1 of 2, as `feddtl stop` asked."
    assert capsys.readouterr().err.splitlines()[-2:] == [told, told]
    found = run_status(run)
    assert (found.state, found.rounds_done, found.clients["connected"]) == ("stopped", 1, [0, 2])
    assert found.clients["arrived"] == [0, 2]
    deployment.serve(short(bench), run, grid_of([0, 2]), resume=True)
    assert [record["lost"] for record in records(run)] == [[1], [1]]
    assert run_status(run).state == "finished"


def test_a_run_that_fails_for_want_of_time_says_how_to_wait_longer(bench, tmp_path):
    grid = grid_of(after=lambda client, reply: None if client else reply)
    with pytest.raises(ClientError, match=r"within 0\.2 seconds \(deployment\.round_timeout\)") as caught:
        deployment.serve(short(bench), tmp_path / "run", grid)
    assert "resume with a higher deployment.round_timeout" in caught.value.hint


def test_a_client_that_raises_costs_its_update(bench, tmp_path):
    def die(client, message):
        if client == 2:
            raise RuntimeError("out of memory")

    notes = Notes()
    deployment.serve(short(bench), tmp_path / "run", grid_of(before=die), observer=notes)
    for record in records(tmp_path / "run"):
        assert record["failures"] == {"2": "it failed: RuntimeError: out of memory"}
        assert record["lost"] == [2]
    said = [line for line in notes.lines if "continues without" in line]
    assert said[:2] == [
        "Round 1 continues without client 2: it failed: RuntimeError: out of memory",
        "Round 2 continues without client 2 for the same reason.",
    ]


def test_a_client_that_refuses_says_why(bench, tmp_path):
    """Its own class list differs: the server's broadcast is refused, and the reason comes back."""

    def other_classes(client, message):
        if client == 0:
            message.content["scalars"]["classes"] = "f" * 64

    deployment.serve(short(bench), tmp_path / "run", grid_of(before=other_classes))
    assert "the client refused: classes is ffffffffffff…" in records(tmp_path / "run")[0]["failures"]["0"]


@pytest.mark.parametrize(("name", "value"), [("global_base", 4), ("client", 0), ("round", 1), ("schema", 1)])
def test_wrong_counts_of_the_closing_evaluation_are_rejected(bench, tmp_path, name, value):
    def tamper(client, reply):
        return with_scalar(name, value)(reply) if client == 1 else reply

    deployment.serve(short(bench), tmp_path / "run", grid_of(closing=tamper))
    federated = records(tmp_path / "run")[-1]["federated"]
    assert federated["clients"] == [0, 2]
    assert f"{name} is {value}" in federated["failures"]["1"]


def test_the_closing_evaluation_goes_on_without_a_client_that_is_gone(bench, tmp_path):
    """Client 2 trained in all rounds; its node fails when all is done. The run ends, and says who is missing."""

    def die(client, reply):
        if client == 2:
            raise RuntimeError("power cut")
        return reply

    notes = Notes()
    found = deployment.serve(short(bench), tmp_path / "run", grid_of(closing=die), observer=notes)
    last = records(tmp_path / "run")[-1]
    assert (last["federated"]["clients"], last["federated"]["base_images"]) == ([0, 1], 6)
    assert last["federated"]["failures"] == {"2": "it failed: RuntimeError: power cut"}
    assert "The closing evaluation continues without client 2: it failed: RuntimeError: power cut" in notes.lines
    assert found.federated["final"].clients == [0, 1]
    assert found.federated["before"].clients == [0, 1, 2]


def test_what_a_client_says_cannot_command_a_terminal(bench, tmp_path):
    """A reason with escape sequences and lines of its own stands on one line, in printable characters."""

    def refuse(client, message):
        if client == 1:
            raise RuntimeError("\x1b]0;owned\x07\x1b[2J no\nround 20/20  HM 99.9\u202e")

    notes = Notes()
    deployment.serve(short(bench), tmp_path / "run", grid_of(before=refuse), observer=notes)
    assert all(line.isprintable() for line in notes.lines)
    assert records(tmp_path / "run")[0]["failures"]["1"].endswith("RuntimeError: ]0;owned[2J no round 20/20 HM 99.9")


def test_a_reply_that_cannot_be_put_together_costs_its_update(bench, tmp_path, monkeypatch):
    """Flower's library raises whatever it likes where the objects of a message do not belong together."""
    grid = grid_of()

    def pull(names, pull=grid.pull_messages):
        found = pull(names)
        if any(grid.sent[int(name)].content["scalars"].get("client") == 1 for name in names):
            raise KeyError("a chunk that is not in the message")
        return found

    monkeypatch.setattr(grid, "pull_messages", pull)
    deployment.serve(short(bench), tmp_path / "run", grid)
    for record in records(tmp_path / "run"):
        assert record["failures"] == {"1": "Its reply cannot be read: KeyError: 'a chunk that is not in the message'"}


def test_a_reply_that_names_another_message_counts_for_the_client_that_was_asked(bench, tmp_path, monkeypatch):
    """Client 1 signs its reply as one to the message of client 0."""
    grid = grid_of()

    def pull(names, pull=grid.pull_messages):
        found = pull(names)
        for reply in found:
            reply.metadata.__dict__["_reply_to_message_id"] = "forged"
        return found

    monkeypatch.setattr(grid, "pull_messages", pull)
    deployment.serve(short(bench), tmp_path / "run", grid)
    assert [record["lost"] for record in records(tmp_path / "run")] == [[], []]
