"""Flower's processes: how they are started, what `flwr` answers, and that no process outlives its command."""

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
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import IO, Any

from feddtl.config.running import CACHE_OFF
from feddtl.errors import DeploymentError
from feddtl.launch.connection import LOOPBACK
from feddtl.parsing import parse_json
from feddtl.state_folder import CACHE, expanded

SECONDS_TO_STOP = 20.0
SECONDS_TO_READ = 5.0  # the last output of a process that has ended
SECONDS_BETWEEN_CHECKS = 0.05
NO_SIGNAL = 0  # kill(2) then only reports whether the process group exists
PR_SET_PDEATHSIG = 1  # of prctl(2)


def require_flower() -> None:
    """Raise DeploymentError if Flower is not installed."""
    if find_spec("flwr") is None:
        raise DeploymentError(
            "This command needs Flower, which is not installed here.",
            "In a checkout, run `make install-flower` and `. .venv-flower/bin/activate`. Elsewhere, install feddtl "
            "with the extra [flower] into a separate environment.",
        )


def flower_environment(home: Path) -> dict[str, str]:
    """Environment in which Flower sends no usage data, installs nothing, and reaches this machine without a proxy.

    `home` is Flower's folder for configuration, apps and records, separate from the user's other uses of Flower.
    """
    scripts = sysconfig.get_path("scripts")
    # Programs differ in which spelling they read, so each gets the hosts of both.
    direct = ",".join(filter(None, (os.environ.get("no_proxy"), os.environ.get("NO_PROXY"), *LOOPBACK)))
    cache = os.environ.get(CACHE, "")
    return {
        **os.environ,
        # Flower's processes have a different working directory, so a relative path must become absolute.
        **({CACHE: str(expanded(cache).absolute())} if cache not in ("", CACHE_OFF) else {}),
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


@dataclass(frozen=True)
class FlowerCli:
    """Flower's command line, `flwr`.

    Attributes:
        home: FLWR_HOME, which names the server; see `write_connection`.
        folder: Empty working directory.
    """

    home: Path
    folder: Path

    def call(self, *words: str) -> tuple[dict[str, Any], str]:
        """The answer to a command, and its error on one line. The command ignores the terminal's Ctrl-C."""
        done = subprocess.run(
            [flower_program("flwr"), *words, "--format", "json"],
            env=flower_environment(self.home),
            cwd=self.folder,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            start_new_session=True,
        )
        try:
            answer = parse_json(done.stdout)
        except ValueError:
            return {}, " ".join((done.stderr or done.stdout).split())
        answer = answer if isinstance(answer, dict) else {}
        # What `flwr` printed before its error ends with an empty line.
        error = str(answer.get("error-message", "Flower gave no reason.")).strip().rpartition("\n\n")[2]
        return answer, " ".join(error.split())


def free_port() -> int:
    """A port of the loopback interface that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    errors: int = subprocess.STDOUT,
) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block, however the block ends, and with this process, however this process ends.

    Its own child processes end too, unless they are in another session. `folder` is the working directory. Standard
    output is a pipe; by default standard error goes to the same pipe.
    """
    # In a session of its own it does not get the terminal's Ctrl-C: this process decides when it ends.
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        errors="replace",  # if reading failed at an odd byte, the pipe would fill up and block the process
        start_new_session=True,
        preexec_fn=_end_with_parent() if sys.platform == "linux" else None,
    )
    try:
        yield process
    finally:
        _stop(process)


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
        with running(command, environment, folder) as process:
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


def _stop(process: subprocess.Popen[str]) -> None:
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
    with suppress(ProcessLookupError, PermissionError):  # the group has ended; macOS then raises PermissionError
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < deadline:
            with suppress(ChildProcessError):  # as process 1 of a container, this process inherits them
                os.waitpid(-group, os.WNOHANG)
            time.sleep(SECONDS_BETWEEN_CHECKS)
            os.killpg(group, NO_SIGNAL)
        os.killpg(group, signal.SIGKILL)


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
