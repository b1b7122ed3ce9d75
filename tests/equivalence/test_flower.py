"""The same experiment over Flower and in one process: equal to the last bit; and what a failing node costs."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra [flower]: make test-flower")

import httpx
from cli.small_runs import CLIENTS, final_state, make_bench, records, summary
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.app.message import Array
from flwr.server.superlink.linkstate.utils import (
    NODE_UNAVAILABLE_ERROR_REASON,
    create_message_error_unavailable_res_message,
)
from runtimes.in_memory_grid import InMemoryGrid

from feddtl import deployment
from feddtl.config import DataConfig, DeploymentConfig, EvaluationConfig, ScheduleConfig, SystemConfig
from feddtl.errors import ClientError, ConfigError
from feddtl.experiment import RunObserver, run_experiment
from feddtl.runtimes.flower.apps import client_app

ROUNDS = 3
TIMED = {"seconds", "seconds_by_phase"}


class Notes(RunObserver):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return make_bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(autouse=True)
def state_of_clients(tmp_path, monkeypatch):
    """Clients keep what is theirs in a folder of this test, and nothing of other tests is loaded."""
    monkeypatch.setenv("FEDDTL_STATE", str(tmp_path / "state"))
    deployment.client_side.cache_clear()
    return tmp_path / "state"


def make_experiment(bench, method="feddtl", **changes):
    settings = {
        "method": method,
        "rounds": ROUNDS,
        "schedule": ScheduleConfig(sft_rounds=2),
        "deployment": DeploymentConfig(round_timeout=0.2, min_clients=2),
        **changes,
    }
    return bench.experiment(**settings)


def grid_of(clients=range(CLIENTS), **faults):
    return InMemoryGrid(client_app(deployment.answer), clients, **faults)


def facts(folder: Path) -> dict[str, object]:
    return {key: value for key, value in summary(folder).items() if key not in TIMED}


def assert_equal_states(ours: Path, theirs: Path, tolerance: float = 1e-6) -> None:
    """What the server holds; what clients keep is in the checkpoint of a run in one process alone."""
    here, there = ({n: t for n, t in final_state(run).items() if n.startswith("state/")} for run in (ours, theirs))
    assert here.keys() == there.keys()
    for name, tensor in here.items():
        torch.testing.assert_close(tensor, there[name], atol=tolerance, rtol=0)


def alike(ours, theirs):
    """Nested values that are the same but for the last digits of numbers."""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(alike(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(alike, ours, theirs))
    return ours == (pytest.approx(theirs, rel=1e-4, abs=1e-6) if isinstance(theirs, float) else theirs)


@pytest.mark.parametrize("cache", ["", "off"], ids=["shared cache", "no cache"])
@pytest.mark.parametrize("method", ["feddtl", "fedlora", "fedpgp"])
def test_equal_to_a_run_in_one_process(bench, tmp_path, method, cache):
    """All clients' own models are scored each round; FedPGP's are scored where their personal part is."""
    experiment = make_experiment(bench, method, evaluation=EvaluationConfig(client_models="every"))
    # Without a common cache a client's images meet other images in a batch: half precision would make a last digit
    # of float32 a digit of its own, and Adam divides small gradients by their own size.
    compute = replace(experiment.compute, cache_folder=cache, activations="float32" if cache else "auto")
    experiment = replace(experiment, compute=compute)
    run_experiment(experiment, tmp_path / "local")
    grid = grid_of()
    deployment.serve(experiment, tmp_path / "flower", grid)
    assert_equal_states(tmp_path / "flower", tmp_path / "local", tolerance=1e-5 if cache else 1e-6)
    assert alike(records(tmp_path / "flower"), records(tmp_path / "local"))
    assert alike(facts(tmp_path / "flower"), facts(tmp_path / "local"))
    assert sum(message.metadata.message_type == "train" for message in grid.sent) == ROUNDS * CLIENTS
    kinds = [message.metadata.message_type for message in grid.sent]
    assert (kinds.count("query"), kinds.count("evaluate")) == (CLIENTS, CLIENTS)
    for record in records(tmp_path / "flower"):
        assert record["federated"]["base"] == record["base"], "all base test images are in the clients' shares"
        assert record["federated"]["base_images"] == 9


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
    assert "The closing evaluation goes on without client 2: it failed: RuntimeError: power cut" in notes.lines
    assert found["federated"]["final"]["clients"] == [0, 1]
    assert found["federated"]["before"]["clients"] == [0, 1, 2]


@pytest.mark.parametrize(("name", "value"), [("global_base", 4), ("client", 0), ("round", 1), ("schema", 1)])
def test_wrong_counts_of_the_closing_evaluation_are_rejected(bench, tmp_path, name, value):
    def tamper(client, reply):
        return with_scalar(name, value)(reply) if client == 1 else reply

    deployment.serve(short(bench), tmp_path / "run", grid_of(closing=tamper))
    federated = records(tmp_path / "run")[-1]["federated"]
    assert federated["clients"] == [0, 2]
    assert f"{name} is {value}" in federated["failures"]["1"]


def test_a_run_killed_before_its_closing_evaluation_has_it_when_resumed(bench, tmp_path):
    """The last checkpoint is that of the last round; nothing but the evaluation is done again."""

    def die(client, reply):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deployment.serve(short(bench), tmp_path / "run", grid_of(closing=die))
    assert [("federated" in record) for record in records(tmp_path / "run")] == [True, False]
    grid = grid_of()
    deployment.serve(short(bench), tmp_path / "run", grid, resume=True)
    assert {message.metadata.message_type for message in grid.sent} == {"query", "evaluate"}
    deployment.serve(short(bench), tmp_path / "whole", grid_of())
    assert records(tmp_path / "run") == records(tmp_path / "whole")
    assert facts(tmp_path / "run") == facts(tmp_path / "whole")


def test_sampled_clients_and_simulated_losses_are_the_same(bench, tmp_path):
    experiment = make_experiment(
        bench, "fedpgp", participation=0.6, rounds=5, system=SystemConfig(dropout=0.3), evaluation=EvaluationConfig(2)
    )
    run_experiment(experiment, tmp_path / "local")
    deployment.serve(experiment, tmp_path / "flower", grid_of())
    assert any(record["lost"] for record in records(tmp_path / "local"))
    assert_equal_states(tmp_path / "flower", tmp_path / "local")
    assert records(tmp_path / "flower") == records(tmp_path / "local")


def test_what_is_personal_never_travels(bench, tmp_path, state_of_clients):
    """No reply holds a tensor of the name or size of U or V; they are on the client's disk."""
    replies = []
    experiment = make_experiment(bench, "fedpgp")
    deployment.serve(experiment, tmp_path / "run", grid_of(after=lambda client, reply: replies.append(reply) or reply))
    names = {name for reply in replies for name in reply.content.array_records["arrays"]}
    assert names == {"weights/context"}
    kept = sorted(path.name for path in state_of_clients.rglob("client-1/*"))
    assert kept == ["round-0002.safetensors", "round-0003.safetensors"]


def short(bench):
    """A round of each stage."""
    return make_experiment(bench, rounds=2, schedule=ScheduleConfig(sft_rounds=1))


def in_round(number, tampered, tamper):
    """Applies `tamper` to what one client replies in one of the rounds, all of which it takes part in."""
    seen = dict.fromkeys(range(CLIENTS), 0)

    def after(client, reply):
        seen[client] += 1
        return tamper(reply) if (client, seen[client]) == (tampered, number) else reply

    return after


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


def with_scalar(name, value):
    def tamper(reply):
        reply.content["scalars"][name] = value
        return reply

    return tamper


def huge(reply):
    [name, array] = next(iter(reply.content.array_records["arrays"].items()))
    return with_array(reply, name, np.full_like(array.numpy(), 1e4))


def broken_bytes(reply):
    array = next(iter(reply.content.array_records["arrays"].values()))
    array.data = array.data[:-3]
    return reply


def without_records(reply):
    del reply.content["arrays"]
    return reply


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (with_nan, "holds NaN or infinite values"),
        (with_wrong_shape, "has the shape"),
        (with_wrong_label, "holds class 3, which is not among 0 to 2"),
        (with_scalar("classes", "0" * 64), "other classes"),
        (with_scalar("model", "0" * 64), "another CLIP"),
        (with_scalar("schema", 1), "schema is 1, not 2"),
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
        (lambda reply: None, "no reply within 0.2 seconds"),
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
    assert any(line.startswith("Round 2 goes on without client 1: ") and reason in line for line in notes.lines)


def test_a_client_that_raises_costs_its_update(bench, tmp_path):
    def die(client, message):
        if client == 2:
            raise RuntimeError("out of memory")

    deployment.serve(short(bench), tmp_path / "run", grid_of(before=die))
    for record in records(tmp_path / "run"):
        assert record["failures"] == {"2": "it failed: RuntimeError: out of memory"}
        assert record["lost"] == [2]


def test_a_client_that_refuses_says_why(bench, tmp_path):
    """Its own class list differs: the server's broadcast is refused, and the reason comes back."""

    def other_classes(client, message):
        if client == 0:
            message.content["scalars"]["classes"] = "f" * 64

    deployment.serve(short(bench), tmp_path / "run", grid_of(before=other_classes))
    assert "the client refused: classes is ffffffffffff…" in records(tmp_path / "run")[0]["failures"]["0"]


def test_a_client_without_a_node(bench, tmp_path):
    experiment = short(bench)
    deployment.serve(experiment, tmp_path / "run", grid_of(clients=[0, 2]))
    assert records(tmp_path / "run")[1]["failures"] == {"1": "no node of it is connected."}


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


def client_of(message):
    return message.content.config_records["scalars"]["client"]


def faulty_grid(clients=range(CLIENTS), **faults):
    return FaultyGrid(client_app(deployment.answer), clients, **faults)


def test_a_node_that_dies_with_its_broadcast_is_named(bench, tmp_path):
    """Flower answers for it, in its own name and not in that of the node."""
    deployment.serve(short(bench), tmp_path / "run", faulty_grid(gone={1: 2}))
    first, second = records(tmp_path / "run")
    assert (first["lost"], second["lost"]) == ([], [1])
    assert second["failures"] == {"1": f"it failed: {NODE_UNAVAILABLE_ERROR_REASON}"}


def test_a_node_that_leaves_before_its_broadcast_is_named(bench, tmp_path):
    deployment.serve(short(bench), tmp_path / "run", faulty_grid(left={1: 2}))
    assert records(tmp_path / "run")[1]["failures"] == {"1": "its node left before the broadcast was sent."}


def test_waiting_for_an_absent_client_takes_no_time_from_the_others(bench, tmp_path):
    """The server waits 0.3 s for client 1; the others then have 0.3 s of their own, of which they need 0.1 s."""
    experiment = replace(short(bench), deployment=DeploymentConfig(round_timeout=0.3, min_clients=2))
    deployment.serve(experiment, tmp_path / "run", faulty_grid([0, 2], delay=0.1))
    assert records(tmp_path / "run")[0]["failures"] == {"1": "no node of it is connected."}


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


def failing_once(call, status):
    """A request of the grid that SuperLink answers with an error the first time it is made for a broadcast."""
    failed = []

    def request(argument):
        if not failed and len(argument) == CLIENTS:
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
    assert notes.lines.count("Node 200 says that it is client 1, which another node is already.") == 1


def test_the_broadcast_is_packed_once_for_all(bench, tmp_path):
    grid = grid_of()
    deployment.serve(short(bench), tmp_path / "run", grid)
    sent = [message for message in grid.sent if message.metadata.message_type == "train"]
    assert len({id(message.content.array_records["arrays"]) for message in sent}) == 2  # rounds


def test_without_a_quorum_the_run_stops_and_can_be_resumed(bench, tmp_path):
    """Two of three clients die in round 2; resumed with all of them, the run ends as if nothing had happened.

    FedPGP: client 0 trained in round 2 before the round failed, and must begin it anew from what it kept of round 1.
    """
    experiment = make_experiment(bench, "fedpgp")
    run_experiment(experiment, tmp_path / "local")
    calls = []

    def die(client, message):
        calls.append(client)
        if len(calls) > CLIENTS and client != 0:
            raise RuntimeError("power cut")

    with pytest.raises(ClientError, match=r"Round 2 has 1 usable updates of 3, deployment\.min_clients = 2") as caught:
        deployment.serve(experiment, tmp_path / "run", grid_of(before=die))
    assert "Client 1: it failed: RuntimeError: power cut" in caught.value.message
    assert len(list((tmp_path / "run" / "checkpoints").glob("round-*"))) == 1
    deployment.client_side.cache_clear()
    deployment.serve(experiment, tmp_path / "run", grid_of(), resume=True)
    assert_equal_states(tmp_path / "run", tmp_path / "local")
    assert records(tmp_path / "run") == records(tmp_path / "local")


def test_a_client_whose_update_was_rejected_begins_where_it_was_before(bench, tmp_path):
    """Client 1's reply of round 2 is lost: in round 3 it is told to go on from round 1, the others from round 2."""
    grid = grid_of(after=in_round(2, 1, lambda reply: None))
    deployment.serve(make_experiment(bench, "fedpgp"), tmp_path / "run", grid)
    assert [record["lost"] for record in records(tmp_path / "run")] == [[], [1], []]
    scalars = [m.content.config_records["scalars"] for m in grid.sent if m.metadata.message_type == "train"]
    kept = {number: {s["client"]: s["kept"] for s in scalars if s["round"] == number} for number in (1, 2, 3)}
    assert kept == {1: {0: 0, 1: 0, 2: 0}, 2: {0: 1, 1: 1, 2: 1}, 3: {0: 2, 1: 1, 2: 2}}


def test_a_client_that_lost_its_disk_is_named(bench, tmp_path, state_of_clients):
    def burn(client, message):
        if client == 1 and message.content.config_records["scalars"]["kept"] == 1:
            for path in state_of_clients.rglob("client-1/*"):
                path.unlink()

    deployment.serve(make_experiment(bench, "fedpgp"), tmp_path / "run", grid_of(before=burn))
    [_, second, third] = records(tmp_path / "run")
    assert "What this client kept after round 1 cannot be read" in second["failures"]["1"]
    assert third["lost"] == [1]


def test_half_precision_halves_what_travels_and_stays_close(bench, tmp_path):
    sizes = {}
    for precision in ("float32", "float16"):
        experiment = make_experiment(bench, deployment=DeploymentConfig(precision=precision, round_timeout=0.2))
        replies = []
        grid = grid_of(after=lambda client, reply, replies=replies: replies.append(reply) or reply)
        deployment.serve(experiment, tmp_path / precision, grid)
        arrays = replies[0].content.array_records["arrays"]
        sizes[precision] = sum(a.numpy().nbytes for name, a in arrays.items() if name != "samples/labels")
    assert sizes["float32"] == 2 * sizes["float16"]
    half, whole = (final_state(tmp_path / precision) for precision in ("float16", "float32"))
    assert any(not torch.equal(half[name], whole[name]) for name in whole)


@pytest.mark.parametrize("system", [{"selection": "fedppo"}, {"aggregation": "async"}], ids=["fedppo", "asynchronous"])
def test_policies_that_need_one_process_are_refused(bench, tmp_path, system):
    experiment = make_experiment(
        bench,
        participation=0.5,
        system=SystemConfig(**system),
        data=DataConfig(source=str(bench.photos), clients=CLIENTS),
    )
    with pytest.raises(ConfigError, match="needs all clients in one process"):
        deployment.serve(experiment, tmp_path / "run", grid_of())
    assert not (tmp_path / "run").exists()


def test_the_experiment_travels_as_json_and_comes_back(bench, tmp_path):
    grid = grid_of()
    experiment = short(bench)
    deployment.serve(experiment, tmp_path / "run", grid)
    sent = json.loads(grid.sent[-1].content.config_records["scalars"]["experiment"])
    assert sent["data"] == json.loads((tmp_path / "run" / "config.json").read_text())["data"]
