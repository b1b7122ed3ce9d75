"""Nodes that die, leave, come back or hang, and requests to SuperLink that fail."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

pytest.importorskip("flwr", reason="needs the extra [flower]: make test-flower")

import httpx
from cli.small_runs import CLIENTS, records
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.server.superlink.linkstate.utils import (
    NODE_UNAVAILABLE_ERROR_REASON,
    create_message_error_unavailable_res_message,
)
from runtimes.flower.flower_runs import (
    Notes,
    client_of,
    grid_of,
    make_experiment,
    short,
)
from runtimes.in_memory_grid import InMemoryGrid

from feddtl import deployment
from feddtl.config import DeploymentConfig
from feddtl.runtimes.flower.apps import client_app


def test_a_client_without_a_node_is_waited_for_once_and_that_is_said(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("feddtl.runtimes.flower.nodes.SECONDS_WITHOUT_WORD", 0.0)
    experiment, notes = short(bench), Notes()
    deployment.serve(experiment, tmp_path / "run", grid_of(clients=[0, 2]), observer=notes)
    assert records(tmp_path / "run")[1]["failures"] == {"1": "none of its nodes is connected."}
    assert [line for line in notes.lines if line.startswith("Wait")] == [
        "Waiting up to 0.2 seconds (deployment.round_timeout) for client 1 to connect.",
        "Waited 0.2 seconds (deployment.round_timeout) for client 1 to connect.",
    ]


class FaultyGrid(InMemoryGrid):
    """Clients that leave and come back as Flower shows it.

    Args:
        gone: Rounds in which a client's node is lost after it got its broadcast, by client.
        left: Rounds in which it leaves between the look at the nodes and the broadcast, by client.
        delay: Seconds until a reply to a broadcast is there.
        mute: Nodes that never say which client they are.
    """

    def __init__(self, *arguments, gone=(), left=(), delay=0.0, mute=()):
        super().__init__(*arguments)
        self.gone, self.left, self.delay, self.mute = dict(gone), dict(left), delay, set(mute)
        self.due = {}

    def push_messages(self, messages):
        staying = [m for m in messages if self.round_of(m) is None or self.left.get(client_of(m)) != self.round_of(m)]
        return super().push_messages(staying)

    def pull_messages(self, message_ids):
        return super().pull_messages([name for name in message_ids if self.due[name] <= time.monotonic()])

    def _deliver(self, message):
        name = super()._deliver(message)
        self.due[name] = time.monotonic() + (self.delay if self.round_of(message) else 0.0)
        return name

    def _answer(self, message):
        if message.metadata.dst_node_id in self.mute:
            return None
        if (number := self.round_of(message)) is not None and self.gone.get(client_of(message)) == number:
            return create_message_error_unavailable_res_message(message.metadata, "node_unavail")
        return super()._answer(message)

    @staticmethod
    def round_of(message):
        return message.content.config_records["scalars"].get("round")


def faulty_grid(clients=range(CLIENTS), **faults):
    return FaultyGrid(client_app(deployment.answer), clients, **faults)


def test_a_node_that_dies_with_its_broadcast_is_named(bench, tmp_path):
    """Flower answers for it, in its own name and not in that of the node."""
    deployment.serve(short(bench), tmp_path / "run", faulty_grid(gone={1: 2}))
    first, second = records(tmp_path / "run")
    assert (first["lost"], second["lost"]) == ([], [1])
    assert second["failures"] == {"1": f"it failed: {NODE_UNAVAILABLE_ERROR_REASON}"}


def test_a_message_that_flower_says_is_too_old_has_run_out_of_time(bench, tmp_path):
    """SuperLink's answer for it may come before the server has noticed that the time is over."""
    notes, grid = Notes(), grid_of()

    def answer(message, otherwise=grid._answer):
        if FaultyGrid.round_of(message) == 2 and client_of(message) == 1:
            return create_message_error_unavailable_res_message(message.metadata, "msg_unavail")
        return otherwise(message)

    grid._answer = answer
    deployment.serve(short(bench), tmp_path / "run", grid, observer=notes)
    reason = "no reply within 0.2 seconds (deployment.round_timeout)."
    assert records(tmp_path / "run")[1]["failures"] == {"1": reason}
    assert any(line.startswith("Round 2 ran out of time: after 0.2 seconds") for line in notes.lines)


def test_a_node_that_leaves_before_its_broadcast_is_named(bench, tmp_path):
    deployment.serve(short(bench), tmp_path / "run", faulty_grid(left={1: 2}))
    assert records(tmp_path / "run")[1]["failures"] == {"1": "its node left before the broadcast was sent."}


def test_waiting_for_an_absent_client_takes_no_time_from_the_others(bench, tmp_path):
    """The server waits 2 s for client 1; the others then have 2 s of their own, enough for training and a reply."""
    experiment = replace(short(bench), deployment=DeploymentConfig(round_timeout=2.0, min_clients=2))
    deployment.serve(experiment, tmp_path / "run", faulty_grid([0, 2], delay=0.1))
    assert records(tmp_path / "run")[0]["failures"] == {"1": "none of its nodes is connected."}


def test_a_client_that_comes_back_takes_part_again_and_is_not_waited_for(bench, tmp_path):
    """Client 1's node is replaced by one that is mute in round 2 and answers from round 3 on."""
    grid = faulty_grid()

    def restart(client, message):
        if client == 2 and FaultyGrid.round_of(message) == 1:
            grid.contexts[200] = Context(1, 200, {"partition-id": 1}, RecordDict(), {})
            del grid.contexts[101]
            grid.mute = {200}
        if client == 2 and FaultyGrid.round_of(message) == 2:
            [query] = [m for m in grid.sent if m.metadata.dst_node_id == 200]
            grid.mute = set()
            grid._replies[query.metadata.message_id] = grid._answer(query)

    grid.before = restart
    deployment.serve(make_experiment(bench), tmp_path / "run", grid)
    assert [record["lost"] for record in records(tmp_path / "run")] == [[], [1], []]
    assert sum(message.metadata.message_type == "query" for message in grid.sent) == CLIENTS + 1


def failing_once(call, status, *, delivers=False):
    """A request of the grid that SuperLink answers with an error the first time it is made for a broadcast.

    With `delivers` it has done what was asked by then, and cannot do it again.
    """
    failed = []

    def request(argument):
        pushed = isinstance(argument[0], Message)
        if not failed and (len(argument) == CLIENTS if pushed else int(argument[0]) >= CLIENTS):
            found = call(argument) if delivers else []
            if found or not delivers:
                failed.append(status)
                response = httpx.Response(status, request=httpx.Request("POST", "http://superlink"))
                response.raise_for_status()
        return call(argument)

    return request


@pytest.mark.parametrize("request_name", ["push_messages", "pull_messages"])
def test_a_server_whose_database_is_locked_for_a_moment_costs_nothing(bench, tmp_path, monkeypatch, request_name):
    monkeypatch.setattr("feddtl.runtimes.flower.grid.SECONDS_BETWEEN_TRIES", 0.0)
    grid, notes = grid_of(), Notes()
    monkeypatch.setattr(grid, request_name, failing_once(getattr(grid, request_name), 500))
    deployment.serve(short(bench), tmp_path / "run", grid, observer=notes)
    assert [record["lost"] for record in records(tmp_path / "run")] == [[], []]
    assert sum("500 Internal Server Error" in line for line in notes.lines) == 1


def test_a_pull_that_fails_when_the_reply_has_left_costs_one_update(bench, tmp_path, monkeypatch):
    """SuperLink has deleted the reply by then, and answers a second request for it that there is none."""
    monkeypatch.setattr("feddtl.runtimes.flower.grid.SECONDS_BETWEEN_TRIES", 0.0)
    grid = grid_of()
    monkeypatch.setattr(grid, "pull_messages", failing_once(grid.pull_messages, 500, delivers=True))
    deployment.serve(short(bench), tmp_path / "run", grid)
    first, second = records(tmp_path / "run")
    assert len(first["lost"]) == 1
    assert second["lost"] == []


def test_a_request_that_the_server_refuses_is_not_repeated(bench, tmp_path, monkeypatch):
    grid = grid_of()
    monkeypatch.setattr(grid, "push_messages", failing_once(grid.push_messages, 404))
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        deployment.serve(short(bench), tmp_path / "run", grid)


def test_a_node_whose_answer_was_lost_is_asked_again(bench, tmp_path):
    """Its process dies with the question; the next one answers."""
    grid = faulty_grid()
    asked = []

    def answer(message, otherwise=grid._answer):
        if message.metadata.message_type == "query" and message.metadata.dst_node_id == 101:
            asked.append(message)
            if len(asked) == 1:
                return create_message_error_unavailable_res_message(message.metadata, "msg_unavail")
        return otherwise(message)

    grid._answer = answer
    experiment = replace(short(bench), deployment=DeploymentConfig(round_timeout=5.0, min_clients=2))
    deployment.serve(experiment, tmp_path / "run", grid)
    assert len(asked) == 2
    assert [record["lost"] for record in records(tmp_path / "run")] == [[], []]


def test_a_second_node_of_a_client_waits_until_the_first_has_left(bench, tmp_path):
    """A client that was killed is listed for a while beside its successor."""
    notes, grid = Notes(), faulty_grid(gone={1: 2})
    grid.contexts[200] = Context(1, 200, {"partition-id": 1}, RecordDict(), {})

    def leave(client, message):
        if client == 2 and FaultyGrid.round_of(message) == 2:
            del grid.contexts[101]
            grid.gone = {}

    grid.before = leave
    deployment.serve(make_experiment(bench), tmp_path / "run", grid, observer=notes)
    assert [record["lost"] for record in records(tmp_path / "run")] == [[], [1], []]
    trained = [m for m in grid.sent if m.metadata.message_type == "train"]
    assert [m.metadata.dst_node_id for m in trained if client_of(m) == 1] == [101, 101, 200]
    assert notes.lines.count("Node 200 claims to be client 1, but another node already is.") == 1


class Crashing(InMemoryGrid):
    """Node 101's process fails for so many questions."""

    def __init__(self, app, clients, crashes):
        super().__init__(app, clients)
        self.crashes = crashes

    def _answer(self, message):
        if message.metadata.message_type == "query" and message.metadata.dst_node_id == 101 and self.crashes:
            self.crashes -= 1
            return Message(Error(code=ErrorCode.CLIENT_APP_CRASHED, reason="out of memory"), reply_to=message)
        return super()._answer(message)


def test_a_node_whose_process_crashed_at_the_question_is_asked_again(bench, tmp_path):
    grid = Crashing(client_app(deployment.answer), range(CLIENTS), crashes=2)
    experiment = replace(short(bench), deployment=DeploymentConfig(round_timeout=5.0, min_clients=2))
    deployment.serve(experiment, tmp_path / "run", grid)
    assert [record["lost"] for record in records(tmp_path / "run")] == [[], []]


def test_a_node_that_crashes_at_each_question_is_named_and_asked_again_in_the_next_round(bench, tmp_path):
    grid, notes = Crashing(client_app(deployment.answer), range(CLIENTS), crashes=3), Notes()
    experiment = make_experiment(bench, deployment=DeploymentConfig(round_timeout=1.5, min_clients=2))
    deployment.serve(experiment, tmp_path / "run", grid, observer=notes)
    first, _, third = records(tmp_path / "run")
    crash = "it failed: out of memory"
    assert first["failures"] == {
        "1": f"none of its nodes is connected. Node 101 does not say which client it is: {crash}"
    }
    assert third["lost"] == []
    assert notes.lines.count(f"Node 101 cannot participate: {crash}") == 1


@pytest.mark.parametrize("claimed", [99, -1, True, [1, 2]], ids=str)
def test_a_node_that_claims_to_be_nobody_is_not_taken_for_a_client(bench, tmp_path, claimed):
    """Client 1 connects later than the stranger refuses; the first round has it."""
    grid = grid_of()
    late = grid.contexts.pop(101)
    grid.contexts[200] = Context(1, 200, {"partition-id": 0}, RecordDict(), {})
    looks = []

    def nodes(present=grid.get_node_ids):
        looks.append(1)
        if len(looks) == 3:
            grid.contexts[101] = late
        return present()

    def answer(message, otherwise=grid._answer):
        reply = otherwise(message)
        if message.metadata.dst_node_id == 200:
            reply.content["scalars"]["client"] = claimed
            reply.content["scalars"]["error"] = "no images"
        return reply

    grid.get_node_ids, grid._answer = nodes, answer
    experiment = replace(short(bench), deployment=DeploymentConfig(round_timeout=5.0, min_clients=2))
    deployment.serve(experiment, tmp_path / "run", grid)
    assert [record["lost"] for record in records(tmp_path / "run")] == [[], []]


def test_a_client_that_connects_in_a_round_takes_part_in_the_next_one(bench, tmp_path):
    """Client 2 and a client too many appear while round 1 is running: one is named, the other told what to do."""
    notes, grid = Notes(), faulty_grid([0, 1], delay=0.6)

    def come(client, message):
        for late in (2, 3):
            settings = {"partition-id": late}
            grid.contexts[100 + late] = Context(1, 100 + late, settings, RecordDict(), {})

    grid.before = come
    experiment = replace(short(bench), deployment=DeploymentConfig(round_timeout=3.0, min_clients=2))
    deployment.serve(experiment, tmp_path / "run", grid, observer=notes)
    assert [record["lost"] for record in records(tmp_path / "run")] == [[2], []]
    assert notes.lines.count("Client 2 is connected, and takes part from now on.") == 1
    [refused] = [line for line in notes.lines if line.startswith("Node 103, client 3, cannot participate: ")]
    assert "This is client 3, and the run was begun with 3 clients, numbered from 0." in refused
    assert "feddtl submit --init-from RUN --data.clients 4 --output DIR" in refused
