"""What users see of what Flower's programs say."""

from __future__ import annotations

import pytest

from feddtl.launch.flower_log import FlowerLog, SuperNodeLog

ROUTINE = [
    "\x1b[92mINFO \x1b[0m:      Starting Flower SuperLink\n",
    "INFO:     Started server process [19392]\n",
    '2026-11-26T00:07:50.210Z INFO [uvicorn.access] 127.0.0.1:52298 - "POST /v1/control/list-runs HTTP/1.1" 200\n',
    "\x1b[92mINFO \x1b[0m:      \n",
    "\n",
    "Successfully installed feddtl to /state/apps/feddtl.\n",
    "\x1b[91mERROR \x1b[0m:     Public key already in use\n",
    "\x1b[91mERROR \x1b[0m:     [/v1/fleet/pull-object][ApiError:2007] SuperNode 1, exception: Run is finished.\n",
]
WORTH_SEEING = [
    "\x1b[93mWARNING \x1b[0m:   Deprecated\n",
    "\x1b[91mERROR \x1b[0m:     Exit Code: 305\n",
    "Traceback (most recent call last):\n",
    '  File "answer.py", line 3, in answer\n',
    "\x1b[31mValueError\x1b[0m: odd\n",
    "  an indented line of no traceback\n",
    "feddtl: client 0 cannot take part in this run: INFO is no class.\n",
    "INFOrmation about images\n",
]
PARTED = [
    "Exception in thread Thread-2 (_run):\n",
    "Traceback (most recent call last):\n",
    '  File "heartbeat.py", line 98, in _run\n',
    "\x1b[92mINFO \x1b[0m:      SuperNode terminated gracefully.\n",
    "           ^^^^^\n",
    "httpcore.ConnectError: [Errno 111] Connection refused\n",
    "\n",
    "The above exception was the direct cause of the following exception:\n",
    "\n",
    "Traceback (most recent call last):\n",
    "httpx.HTTPStatusError: Client error '401 Unauthorized' for url 'https://127.0.0.1:48837/v1/fleet'\n",
    "For more information check: https://developer.mozilla.org/en-US/docs/Web/HTTP/Status/401\n",
    "During handling of the above exception, another exception occurred:\n",
    "Traceback (most recent call last):\n",
    "    waiter.acquire()\n",
    "KeyboardInterrupt\n",
]
MESSAGES = [
    "\x1b[92mINFO \x1b[0m:      SuperNode ID: 1234567890\n",
    "\x1b[92mINFO \x1b[0m:      [RUN 71]\n",
    "\x1b[92mINFO \x1b[0m:      Receiving: query message (ID: cb)\n",
    "\x1b[92mINFO \x1b[0m:      Sending: query message (ID: cc)\n",
    "\x1b[92mINFO \x1b[0m:      [RUN 71, ROUND 3]\n",
    "\x1b[92mINFO \x1b[0m:      Receiving: train message (ID: 95)\n",
    "\x1b[92mINFO \x1b[0m:      Sending: train message (ID: 96)\n",
    "\x1b[92mINFO \x1b[0m:      Receiving: evaluate message (ID: 97)\n",
]


def heard(log, lines, capsys):
    for line in lines:
        log.hear(line)
    return capsys.readouterr().err


def test_routine_is_left_out_and_the_rest_is_shown_as_it_is(capsys):
    assert heard(FlowerLog(verbose=False), [*ROUTINE, *WORTH_SEEING], capsys) == "".join(WORTH_SEEING)


def test_a_process_that_lost_its_server_shows_no_tracebacks(capsys):
    log = FlowerLog(verbose=False)
    assert heard(log, PARTED, capsys) == ""
    assert heard(log, WORTH_SEEING, capsys) == "".join(WORTH_SEEING)


def test_everything_is_shown_to_who_asks_for_it(capsys):
    everything = [*ROUTINE, *PARTED, *WORTH_SEEING]
    assert heard(FlowerLog(verbose=True), everything, capsys) == "".join(everything)


def test_a_client_says_what_it_works_at(capsys):
    notes = []
    assert heard(SuperNodeLog(notes.append, verbose=False), MESSAGES, capsys) == ""
    assert notes == [
        "connected, SuperNode ID: 1234567890",
        "run 71 asks whether this client can take part",
        "run 71, round 3: training",
        "run 71, round 3: sending the update",
        "run 71: scoring the final model",
    ]


@pytest.mark.parametrize("verbose", [False, True])
def test_a_refusal_is_seen(capsys, verbose):
    log = SuperNodeLog(print, verbose=verbose)
    log.hear("INFO : hello\n")
    assert not log.refused
    log.hear("[code: 2004] Failed to activate SuperNode.\n")
    assert log.refused


def test_messages_are_not_told_twice(capsys):
    notes = []
    assert heard(SuperNodeLog(notes.append, verbose=True), MESSAGES, capsys) == "".join(MESSAGES)
    assert notes == []
