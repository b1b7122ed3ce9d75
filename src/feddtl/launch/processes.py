"""Flower's processes: how they are started, which of their output is shown, and that none outlives its command."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import IO

from feddtl.config.running import CACHE_OFF
from feddtl.errors import DeploymentError
from feddtl.launch.connection import LOOPBACK
from feddtl.marked_lines import unmarked
from feddtl.state_folder import CACHE
from feddtl.storage import storage_errors

SECONDS_TO_STOP = 20.0
SECONDS_TO_READ = 5.0  # the last output of a process that has ended
SECONDS_BETWEEN_CHECKS = 0.05
NO_SIGNAL = 0  # kill(2) then only tells whether the process group exists
PR_SET_PDEATHSIG = 1  # of prctl(2)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# A line of Python's logging begins with its level; Flower's HTTP server puts the time before it.
LEVEL = re.compile(r"(?:\S+Z )?(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
TRACEBACK = re.compile(r"Traceback \(most recent call last\):|Exception in thread ")
ROUTINE = ("DEBUG", "INFO")


def require_flower() -> None:
    """Raise DeploymentError if Flower is not installed."""
    if find_spec("flwr") is None:
        raise DeploymentError(
            "This command needs Flower, which is not installed here.",
            "In a checkout, run `make install-flower` and `. .venv-flower/bin/activate`. Elsewhere, install feddtl "
            "with the extra [flower] into a separate environment.",
        )


def flower_environment(home: Path) -> dict[str, str]:
    """Environment of Flower's processes.

    With it Flower sends no usage data, installs nothing, and connects to this machine without a proxy.

    Args:
        home: Folder for Flower's configuration, apps and records, separate from the user's other uses of Flower.
    """
    scripts = sysconfig.get_path("scripts")
    # Some programs read the one spelling and some the other, so both get the hosts of both.
    direct = ",".join(filter(None, (os.environ.get("no_proxy"), os.environ.get("NO_PROXY"), *LOOPBACK)))
    cache = os.environ.get(CACHE, "")
    return {
        **os.environ,
        # Flower's processes have a different working directory, so a relative path must become absolute.
        **({CACHE: str(Path(cache).expanduser().absolute())} if cache not in ("", CACHE_OFF) else {}),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "no_proxy": direct,
        "NO_PROXY": direct,
        # Flower's processes start each other by name.
        "PATH": os.pathsep.join(filter(None, (scripts, os.environ.get("PATH", "")))),
    }


def flower_program(name: str) -> str:
    """Path of one of Flower's programs in this Python environment, whatever PATH says."""
    return str(Path(sysconfig.get_path("scripts")) / name)


def toml_text(values: Mapping[str, str | float | bool]) -> str:
    """TOML with a line for each value. The keys must be bare keys.

    A JSON string is also a TOML string, provided that non-ASCII characters are left as they are and DEL is escaped.
    """
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
    return "".join(lines).replace("\x7f", "\\u007f")


def empty_folder(path: Path) -> Path:
    """A working directory in which Python cannot find a module by accident.

    Raises:
        DeploymentError: The folder is not empty.
        RunError: The folder cannot be created.
    """
    with storage_errors(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise DeploymentError(
                f"{path}, the working directory of Flower's processes, is not empty; nothing was changed.",
                "Move its files elsewhere.",
            )
    return path


def free_port() -> int:
    """A port of the loopback interface that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class OutputFilter:
    """Shows, on standard error, the lines of a Flower process that concern its user.

    These are feddtl's own lines, and Flower's warnings and errors with the lines that follow them, except tracebacks.

    Args:
        verbose: Show every line.
    """

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._continued = False  # whether a line without a level belongs to a line that was shown

    def show(self, line: str) -> None:
        """Show a line, which ends with a line break, or leave it out."""
        plain = COLOUR.sub("", line)
        own = unmarked(plain) is not None
        if level := LEVEL.match(plain):
            self._continued = level[1] not in ROUTINE
        elif own or TRACEBACK.match(plain):
            self._continued = False
        if self._verbose or own or self._continued:
            sys.stderr.write(line)
            sys.stderr.flush()


@contextmanager
def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    output: int | None = None,
    errors: int | None = subprocess.STDOUT,
) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block, however the block ends, and with this process, however this process ends.

    The processes that it started end too, unless they are in another session.

    Args:
        command: Program and arguments.
        environment: The complete environment.
        folder: Working directory.
        output: Where standard output goes. None: to this process's standard error; `subprocess.PIPE`: to the caller.
        errors: Where standard error goes; by default to the same place as the output.
    """
    # In a session of its own it does not get the terminal's Ctrl-C: this process decides when it ends.
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno() if output is None else output,
        stderr=errors,
        text=True,
        errors="replace",  # if reading failed at an odd byte, the pipe would fill up and block the process
        start_new_session=True,
        preexec_fn=_end_with_parent() if sys.platform == "linux" else None,
    )
    try:
        yield process
    finally:
        stop(process)


@contextmanager
def running_with_lines(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, on_line: Callable[[str], None]
) -> Iterator[subprocess.Popen[str]]:
    """As `running`; a thread passes each line of standard output and standard error to `on_line`.

    When the block has ended, all lines have been passed on. Lines that a process prints because the end of the block
    stops it are dropped.
    """
    thread, stopped = None, threading.Event()

    def pass_on(output: IO[str]) -> None:
        for line in output:
            if not stopped.is_set():
                # The terminal may be gone or the disk full, but the pipe must be emptied or the process blocks.
                with suppress(OSError):
                    on_line(line)

    try:
        with running(command, environment, folder, subprocess.PIPE) as process:
            assert process.stdout is not None
            thread = threading.Thread(target=pass_on, args=(process.stdout,), daemon=True)
            thread.start()
            try:
                yield process
            finally:
                if process.poll() is None:
                    stopped.set()
    finally:
        if thread is not None:
            thread.join(SECONDS_TO_READ)


def stop(process: subprocess.Popen[str]) -> None:
    """End a process that leads a session, then the rest of its group: by SIGTERM, and if that fails by SIGKILL."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    _stop_group(process.pid)


def _stop_group(group: int) -> None:
    """End the remaining processes of a group whose leader has just ended.

    The kernel does not reuse the number of a group while the group has a process, and otherwise only after it has used
    all other numbers: right after the leader's end the number belongs to this group or to none.
    """
    deadline = time.monotonic() + SECONDS_TO_STOP
    number: int = signal.SIGTERM
    while _signal_group(group, number):
        with suppress(ChildProcessError):  # as process 1 of a container, this process inherits them
            os.waitpid(-group, os.WNOHANG)
        if number == signal.SIGKILL:
            return
        number = signal.SIGKILL if time.monotonic() > deadline else NO_SIGNAL
        time.sleep(SECONDS_BETWEEN_CHECKS)


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a group; whether the group exists."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS: PermissionError if all its processes have ended
        return False
    return True


def _end_with_parent() -> Callable[[], None]:
    """What a new process runs first, so that the kernel ends it with its parent, even after `kill -9`."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # loaded before the fork: little is safe between fork and exec

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask


@contextmanager
def ended_by_sigterm(code: int) -> Iterator[None]:
    """Within the block SIGTERM raises SystemExit with an exit code, so that the process can clean up."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(code)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Within the block SIGINT and SIGTERM have no effect; the first of them takes effect after the block.

    A block that fails ends with its own error, and the signals are dropped.
    """
    received: list[int] = []

    def defer(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, defer) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])
