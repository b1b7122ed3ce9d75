"""Which lines of Flower's programs a user sees."""

from __future__ import annotations

import pytest

from feddtl.launch.programs import OutputFilter

ROUTINE = [
    "\x1b[92mINFO \x1b[0m:      Starting Flower SuperLink\n",
    "INFO:     Started server process [19392]\n",
    '2026-11-26T00:07:50.210Z INFO [uvicorn.access] 127.0.0.1:52298 - "POST /v1/control/list-runs HTTP/1.1" 200\n',
    "DEBUG 2026-11-26 00:07:50 :   request\n",
    "\x1b[92mINFO \x1b[0m:      Several lines:\n",
    "                a second\n",
    "\n",
    "Successfully installed feddtl to /state/apps/feddtl.\n",
]
WORTH_SEEING = [
    "\x1b[93mWARNING \x1b[0m:   Deprecated\n",
    "\x1b[91mERROR \x1b[0m:     Exit Code: 305\n",
    "Failed to initialize the connection to the SuperLink.\n",
    "\n",
    "2026-11-26T00:07:50.210Z ERROR [uvicorn.error] Exception in ASGI application\n",
    "feddtl: client 0 cannot take part in this run: INFO is no class.\n",
    "feddtl: Traceback (most recent call last):\n",
]
TRACEBACKS = [
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
]
EVERYTHING = [*ROUTINE, *WORTH_SEEING, *TRACEBACKS, *WORTH_SEEING, *ROUTINE]


@pytest.mark.parametrize(
    ("verbose", "shown"), [(False, [*WORTH_SEEING, *WORTH_SEEING]), (True, EVERYTHING)], ids=["by level", "verbose"]
)
def test_which_lines_are_shown(capsys, verbose, shown):
    output = OutputFilter(verbose=verbose)
    for line in EVERYTHING:
        output.show(line)
    assert capsys.readouterr().err == "".join(shown)


LATE = [
    "\x1b[91mERROR \x1b[0m:     Failed to store object af6c: NoObjectInStoreError: it was not pre-registered.\n",
    "\x1b[91mERROR \x1b[0m:     Failed to push reply message\n",
    "\x1b[91mERROR \x1b[0m:     Exit Code: 250\n",
    "\n",
    "The ClientApp could not communicate with the Runtime API.\n",
]
PUSHED = "ERROR :     [/v1/fleet/push-messages][ApiError:2007] SuperNode 1393, exception: Run is finished.\n"
STOPPED = "ERROR :     [/v1/runtime/push-logs][ApiError:1008] Runtime task-token authentication failed.\n"
DROPPED = "feddtl: A message came after its run had ended, and was dropped.\n"


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (LATE, [DROPPED]),
        ([PUSHED, STOPPED, PUSHED, *ROUTINE, PUSHED], [DROPPED, DROPPED]),
        ([*LATE, "feddtl: run 3 asks\n", *LATE[1:]], [DROPPED, "feddtl: run 3 asks\n"]),
        ([*LATE, *ROUTINE, *LATE[2:]], [DROPPED, *LATE[2:]]),
        (LATE[1:], LATE[1:]),
    ],
    ids=["client", "server", "between", "another failure later", "another failure"],
)
def test_what_comes_after_a_run_was_stopped_is_no_error(capsys, lines, shown):
    """As Flower wrote them when `feddtl stop --now` ended a run while its clients trained."""
    output = OutputFilter(verbose=False)
    for line in lines:
        output.show(line)
    assert capsys.readouterr().err == "".join(shown)


def test_an_error_is_shown_without_its_traceback(capsys):
    output = OutputFilter(verbose=False)
    for line in ("ERROR :     ClientApp raised an exception\n", *TRACEBACKS[1:3], "ValueError: odd\n"):
        output.show(line)
    assert capsys.readouterr().err == "ERROR :     ClientApp raised an exception\n"
