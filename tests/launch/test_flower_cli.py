"""What is made of the answers of `flwr`, which is a stand-in here; the real one is in tests/distributed."""

from __future__ import annotations

import tomllib

import pytest
from launch.fake_programs import fake_program

from feddtl.errors import DeploymentError
from feddtl.launch.connection import Address
from feddtl.launch.flower_cli import FlowerCli, RunStatus, UnknownRunError

UNAVAILABLE = (
    "Using SuperLink: feddtl (127.0.0.1:9092)\\n Displaying information for run ID 7...\\n\\n"
    "Connection to the SuperLink is unavailable."
)


@pytest.fixture
def answering(tmp_path, monkeypatch):
    """`flwr` that gives an answer and notes its words."""

    def make(answer: str) -> FlowerCli:
        body = f"open(CALLS, 'a').write(' '.join(sys.argv[1:]) + '\\n')\nprint('''{answer}''')\n"
        make.calls = fake_program(tmp_path / "bin", "flwr", body, monkeypatch)
        return FlowerCli(tmp_path, tmp_path)

    return make


def test_a_key_that_is_known_already_is_no_error(answering, tmp_path):
    for answer in (
        '{"success": true, "node-id": 5}',
        '{"success": false, "error-message": "[code: 23] Public key already in use"}',
    ):
        answering(answer).register(tmp_path / "client-3.pub")
    assert answering.calls.read_text().splitlines()[0] == (
        f"supernode register {tmp_path / 'client-3.pub'} feddtl --name client-3 --format json"
    )


def test_a_key_that_is_refused_is_named(answering, tmp_path):
    with pytest.raises(DeploymentError, match=r"client-3\.pub: no NIST curve"):
        answering('{"success": false, "error-message": "no NIST curve"}').register(tmp_path / "client-3.pub")


def test_the_id_of_a_started_run(answering, tmp_path):
    """Ids have 64 bits; as text they keep all of them."""
    answer = '{"success": true, "run-id": "17446744073709551615"}'
    assert answering(answer).start(tmp_path, tmp_path / "run.toml") == 17446744073709551615


def test_without_a_server_the_reason_alone_is_told(answering, tmp_path):
    cli = answering('{"success": false, "error-message": "' + UNAVAILABLE.replace("\\n", "\\\\n") + '"}')
    for ask in (lambda: cli.start(tmp_path, tmp_path), lambda: cli.status(7)):
        with pytest.raises(DeploymentError, match=r": Connection to the SuperLink is unavailable\.\n") as caught:
            ask()
        assert "Using SuperLink" not in caught.value.message
        assert "feddtl server" in caught.value.hint


@pytest.mark.parametrize(
    ("status", "finished"),
    [("pending", False), ("running", False), ("finished:completed", True), ("finished:failed", True)],
)
def test_where_a_run_stands(answering, status, finished):
    cli = answering('{"runs": [{"status": "' + status + '", "status-details": "why"}]}')
    assert cli.status(7) == RunStatus(status, "why")
    assert cli.status(7).finished == finished


def test_a_run_of_a_server_that_was_started_again_since(answering):
    """Flower's answer to `flwr ls --run-id` for a number that it does not have."""
    cli = answering('{"success": false, "error-message": "[code: 16] Run ID not found."}')
    with pytest.raises(UnknownRunError, match="does not know run 7") as caught:
        cli.status(7)
    assert "--resume" in caught.value.hint


@pytest.mark.parametrize(
    "answer",
    [
        '{"success": true, "run-id": "7"}',
        '{"success": false, "error-message": "[code: 18] Run is already finished."}',
        '{"success": false, "error-message": "[code: 16] Run ID not found."}',
    ],
)
def test_a_run_that_does_not_go_on_is_stopped(answering, answer):
    answering(answer).stop(7)
    assert answering.calls.read_text() == "stop 7 feddtl --format json\n"


@pytest.mark.parametrize("answer", ['{"success": false, "error-message": "unavailable"}', "Traceback"])
def test_a_run_that_was_not_stopped_can_be_stopped_by_hand(answering, answer, tmp_path):
    with pytest.raises(DeploymentError, match="Run 7 may still be running") as caught:
        answering(answer).stop(7)
    assert f"FLWR_HOME={tmp_path} " in caught.value.hint
    assert f"{tmp_path / 'bin' / 'flwr'} stop 7 feddtl" in caught.value.hint


def test_an_answer_that_is_not_json_is_the_reason(answering):
    with pytest.raises(DeploymentError, match="Traceback"):
        answering("Traceback").status(7)


def test_an_answer_that_is_no_text_is_the_reason(tmp_path, monkeypatch):
    fake_program(tmp_path / "bin", "flwr", "sys.stdout.buffer.write(b'caf\\xff')", monkeypatch)
    with pytest.raises(DeploymentError, match="caf\N{REPLACEMENT CHARACTER}"):
        FlowerCli(tmp_path, tmp_path).status(7)


def test_the_server_and_its_authority_are_named_in_the_home_folder(tmp_path):
    FlowerCli(tmp_path, tmp_path).connect_to(Address("::1", 9092), tmp_path / "a 'b'" / "ca.crt")
    assert tomllib.loads((tmp_path / "config.toml").read_text())["superlink"] == {
        "default": "feddtl",
        "feddtl": {"address": "[::1]:9092", "root-certificates": str(tmp_path / "a 'b'" / "ca.crt")},
    }
