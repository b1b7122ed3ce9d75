"""Answers of `flwr`, which is a stand-in here; tests/distributed uses the real one."""

from __future__ import annotations

import pytest
from launch.fake_programs import fake_program

from feddtl.errors import DeploymentError
from feddtl.launch import submission
from feddtl.launch.processes import FlowerCli
from feddtl.launch.submission import RunStatus, run_status, start_run, stop_run

UNAVAILABLE = (
    "Using SuperLink: feddtl (127.0.0.1:9092)\\n Displaying information for run ID 7...\\n\\n"
    "Connection to the SuperLink is unavailable."
)


@pytest.fixture
def answering(tmp_path, monkeypatch):
    """A `flwr` that prints an answer and records its arguments."""

    def make(answer: str) -> FlowerCli:
        body = f"open(CALLS, 'a').write(' '.join(sys.argv[1:]) + '\\n')\nprint('''{answer}''')\n"
        make.calls = fake_program(tmp_path / "bin", "flwr", body, monkeypatch)
        return FlowerCli(tmp_path, tmp_path)

    return make


def test_the_id_of_a_started_run(answering, tmp_path):
    """Ids have 64 bits; as text they keep all of them."""
    answer = '{"success": true, "run-id": "17446744073709551615"}'
    assert start_run(answering(answer), tmp_path, tmp_path / "run.toml") == 17446744073709551615


@pytest.mark.parametrize(("function", "hint"), [("start", "feddtl server"), ("status", "flwr stop 7 feddtl")])
def test_without_a_server_only_the_reason_is_shown(answering, tmp_path, monkeypatch, function, hint):
    monkeypatch.setattr(submission, "SECONDS_WITHOUT_ANSWER", -1.0)
    cli = answering('{"success": false, "error-message": "' + UNAVAILABLE.replace("\\n", "\\\\n") + '"}')
    with pytest.raises(DeploymentError, match=r": Connection to the SuperLink is unavailable\.\n") as caught:
        start_run(cli, tmp_path, tmp_path) if function == "start" else run_status(cli, 7)
    assert "Using SuperLink" not in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("status", "finished"),
    [("pending", False), ("running", False), ("finished:completed", True), ("finished:failed", True)],
)
def test_the_status_of_a_run(answering, status, finished):
    cli = answering('{"runs": [{"status": "' + status + '", "status-details": "why"}]}')
    assert run_status(cli, 7) == RunStatus(status, "why")
    assert run_status(cli, 7).finished == finished


def test_a_run_of_a_server_that_has_restarted_since(answering):
    """Flower's answer to `flwr ls --run-id` for an unknown run."""
    cli = answering('{"success": false, "error-message": "[code: 16] Run ID not found."}')
    with pytest.raises(DeploymentError, match="does not know run 7") as caught:
        run_status(cli, 7)
    assert "--resume" in caught.value.hint


@pytest.mark.parametrize(
    "answer",
    [
        '{"success": true, "run-id": "7"}',
        '{"success": false, "error-message": "[code: 18] Run is already finished."}',
        '{"success": false, "error-message": "[code: 16] Run ID not found."}',
    ],
)
def test_a_run_is_stopped_unless_it_has_ended(answering, answer):
    stop_run(answering(answer), 7)
    assert answering.calls.read_text() == "stop 7 feddtl --format json\n"


@pytest.mark.parametrize("answer", ['{"success": false, "error-message": "unavailable"}', "Traceback"])
def test_a_failed_stop_names_the_manual_command(answering, answer, tmp_path):
    with pytest.raises(DeploymentError, match="Run 7 may still be running") as caught:
        stop_run(answering(answer), 7)
    assert f"FLWR_HOME={tmp_path} " in caught.value.hint
    assert f"{tmp_path / 'bin' / 'flwr'} stop 7 feddtl" in caught.value.hint


def test_an_answer_that_is_not_json_is_the_error(answering):
    assert answering("Traceback").call("ls") == ({}, "Traceback")


def test_an_answer_that_is_not_utf_8_is_the_error(tmp_path, monkeypatch):
    fake_program(tmp_path / "bin", "flwr", "sys.stdout.buffer.write(b'caf\\xff')", monkeypatch)
    assert FlowerCli(tmp_path, tmp_path).call("ls") == ({}, "caf\N{REPLACEMENT CHARACTER}")
