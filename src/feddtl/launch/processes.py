"""Processes of Flower: how they are started, what they are told, and that none outlives the command that started it."""

from __future__ import annotations

import ctypes
import os
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
from feddtl.state_folder import CACHE
from feddtl.storage import storage_errors

SECONDS_TO_STOP = 20.0
SECONDS_TO_HEAR = 5.0  # what an ended process said last
SECONDS_BETWEEN_LOOKS = 0.05
NO_SIGNAL = 0  # kill(2) then only tells whether somebody is there
PR_SET_PDEATHSIG = 1  # of prctl(2)


def require_flower() -> None:
    """Raise DeploymentError where Flower is not installed."""
    if find_spec("flwr") is None:
        raise DeploymentError(
            "This command needs Flower, which is not installed here.",
            "In a checkout: `make install-flower`, then `. .venv-flower/bin/activate`; or install it with the extra "
            "[flower] into an environment of its own.",
        )


def flower_environment(home: Path) -> dict[str, str]:
    """Environment of Flower's processes: nothing is sent, installed or looked for outside, and none asks another one
    of this machine through a proxy.

    Args:
        home: Folder for Flower's configuration, apps and records, shared with no other use of Flower.
    """
    scripts = sysconfig.get_path("scripts")
    # Programs heed the one or the other spelling, so both get what either has.
    direct = ",".join(filter(None, (os.environ.get("no_proxy"), os.environ.get("NO_PROXY"), *LOOPBACK)))
    cache = os.environ.get(CACHE, "")
    return {
        **os.environ,
        # They have another working directory, in which nothing may appear.
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
    """Path of one of Flower's programs, of this environment and not of another one that PATH names first."""
    return str(Path(sysconfig.get_path("scripts")) / name)


def empty_folder(path: Path) -> Path:
    """A working directory without a module that Python could take for one that it looks for.

    Raises:
        DeploymentError: It holds something.
        RunError: It cannot be made.
    """
    with storage_errors(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise DeploymentError(
                f"{path}, where Flower's processes start, is not empty.", "Move away what lies there; it is left alone."
            )
    return path


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    output: int | None = None,
    errors: int | None = subprocess.STDOUT,
) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block, however the block ends, and with this process, however it ends.

    What it started ends with the block as well, unless in a session of its own.

    Args:
        command: Program and arguments.
        environment: All of its environment.
        folder: Its working directory.
        output: Where standard output goes; None: to this process's standard error, `subprocess.PIPE`: to the caller.
        errors: Where standard error goes; by default with the output.
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
        errors="replace",  # a reader that fails at an odd byte leaves the pipe to fill up, and the process waits
        start_new_session=True,
        preexec_fn=_end_with_parent() if sys.platform == "linux" else None,
    )
    try:
        yield process
    finally:
        stop(process)


@contextmanager
def heard(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, hear: Callable[[str], None]
) -> Iterator[subprocess.Popen[str]]:
    """As `running`, with each line of output, standard error included, given to `hear` in a thread.

    When the block has ended all lines were heard: the output ends with the last process that the program started.
    Of a program that is stopped by the end of the block what it says of that is not.
    """
    thread, stopped = None, threading.Event()

    def pass_on(output: IO[str]) -> None:
        for line in output:
            if not stopped.is_set():
                # Whoever reads it may be gone, or the disk full; a pipe that nobody empties stops the program.
                with suppress(OSError):
                    hear(line)

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
            thread.join(SECONDS_TO_HEAR)


def stop(process: subprocess.Popen[str]) -> None:
    """Ask a process that leads a session to end, then what it left in its group; end what does not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    _stop_group(process.pid)


def _stop_group(group: int) -> None:
    """End what is left of a group whose leader has just ended.

    The kernel gives the number of a group to no new process while one of the group is left, and a number that is free
    only after it gave out all others: right after the leader's end the number is the leader's or nobody's.
    """
    deadline = time.monotonic() + SECONDS_TO_STOP
    number: int = signal.SIGTERM
    while _signal_group(group, number):
        with suppress(ChildProcessError):  # as process 1 of a container this process inherits them
            os.waitpid(-group, os.WNOHANG)
        if number == signal.SIGKILL:
            return
        number = signal.SIGKILL if time.monotonic() > deadline else NO_SIGNAL
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _signal_group(group: int, number: int) -> bool:
    """Whether there is a group to signal."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # none, or with macOS none but processes that ended
        return False
    return True


def _end_with_parent() -> Callable[[], None]:
    """What a new process does first: the kernel ends it when its parent is gone, be it by kill -9."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # loaded here: between fork and exec little is safe

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask


@contextmanager
def ended_by_sigterm(code: int) -> Iterator[None]:
    """Within the block SIGTERM ends this process as an exception does, with an exit code, so that it can clean up."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(code)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def held_back() -> Iterator[None]:
    """Within the block SIGINT and SIGTERM have no effect; the first that came has it after it.

    A block that fails ends with its error, whatever came.
    """
    came: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
