"""No process outlives the command that started it, and Flower sends and installs nothing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import proxy_bypass_environment

import pytest

from feddtl.errors import DeploymentError
from feddtl.launch import processes
from feddtl.launch.processes import (
    ended_by_sigterm,
    flower_environment,
    require_flower,
    running,
    running_with_lines,
)

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
IGNORES_SIGTERM = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
STUBBORN = [sys.executable, "-c", IGNORES_SIGTERM]
PARENT = f"""
import os, sys
from pathlib import Path
from feddtl.launch.processes import running
with running({SLEEPER!r}, os.environ, Path.cwd()) as process:
    print(process.pid, flush=True)
    process.wait()
"""


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_process_ends_with_its_block(tmp_path):
    started = []

    def fail():
        with running(SLEEPER, os.environ, tmp_path) as process:
            started.append(process)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert started[0].returncode == -signal.SIGTERM


def test_a_process_that_ignores_sigterm_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "SECONDS_TO_STOP", 0.2)
    with running(STUBBORN, os.environ, tmp_path) as process:
        assert process.stdout.readline() == "ready\n"
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("parent", ["exits", "sleeps"])
def test_child_processes_do_not_outlive_a_process(tmp_path, parent):
    """Whether the process has ended by itself or is ended by the block."""
    rest = {"exits": "", "sleeps": "import time; time.sleep(600)"}[parent]
    body = f"import subprocess; print(subprocess.Popen({SLEEPER!r}).pid, flush=True); {rest}"
    with running([sys.executable, "-c", body], os.environ, tmp_path) as process:
        helper = int(process.stdout.readline())
        if parent == "exits":
            process.wait()
        assert is_running(helper)
    assert not is_running(helper)


def test_child_processes_that_ignore_sigterm_are_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "SECONDS_TO_STOP", 0.2)
    body = f"import subprocess; print(subprocess.Popen({STUBBORN!r}, stdout=2).pid, flush=True)"
    with running([sys.executable, "-c", body], os.environ, tmp_path, errors=subprocess.PIPE) as process:
        helper = int(process.stdout.readline())
        assert process.stderr.readline() == "ready\n"
    limit = time.monotonic() + 10
    while is_running(helper):
        assert time.monotonic() < limit, "the helper lives on"
        time.sleep(0.05)


@pytest.mark.parametrize(("named", "given"), [("kept", "{here}/kept"), ("/kept", "/kept"), ("off", "off")])
def test_the_cache_is_where_the_user_named_it(tmp_path, monkeypatch, named, given):
    """Flower's processes have a different working directory, in which a relative path would be wrong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDDTL_CACHE", named)
    assert flower_environment(tmp_path)["FEDDTL_CACHE"] == given.format(here=tmp_path)


def test_a_byte_that_is_not_utf_8_does_not_end_the_reading(tmp_path):
    """UTF-8 never contains 0xff, but a file name or a library's message may."""
    odd = "import sys; sys.stdout.buffer.write(b'caf\\xff\\nlast\\n')"
    with running([sys.executable, "-c", odd], os.environ, tmp_path) as process:
        assert process.stdout.read().splitlines() == ["caf\N{REPLACEMENT CHARACTER}", "last"]


def test_all_output_before_the_end_of_a_process_is_passed_on(tmp_path):
    """Standard error, too."""
    script = "import sys; print('one', flush=True); print('two', file=sys.stderr, flush=True)"
    lines = []
    with running_with_lines([sys.executable, "-c", script], os.environ, tmp_path, lines.append) as process:
        assert process.wait() == 0
    assert lines == ["one\n", "two\n"]


def test_a_process_continues_if_its_output_cannot_be_shown(tmp_path):
    """The output exceeds the 64 KiB of a pipe. Standard error may be a file on a full disk."""

    def full(line):
        raise OSError(errno.ENOSPC, "No space left on device")

    with running_with_lines([sys.executable, "-c", "print('x\\n' * 500_000)"], os.environ, tmp_path, full) as process:
        assert process.wait(60) == 0


def test_output_of_a_process_that_is_being_stopped_is_not_passed_on(tmp_path):
    script = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit('shot'))"
    script += "; print('ready', flush=True); time.sleep(600)"
    lines = []
    with running_with_lines([sys.executable, "-c", script], os.environ, tmp_path, lines.append) as process:
        while not lines:
            time.sleep(0.01)
    assert (lines, process.returncode) == (["ready\n"], 1)


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not end a process with its parent")
def test_a_process_ends_with_its_parent_even_by_kill_9():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.kill()
    limit = time.monotonic() + 30
    while is_running(child):
        assert time.monotonic() < limit, "the child lives on"
        time.sleep(0.05)


def test_sigterm_ends_a_block_with_its_code_and_its_processes(tmp_path):
    before, started = signal.getsignal(signal.SIGTERM), []

    def receive_sigterm():
        with ended_by_sigterm(7), running(SLEEPER, os.environ, tmp_path) as process:
            started.append(process)
            os.kill(os.getpid(), signal.SIGTERM)
            process.wait()

    with pytest.raises(SystemExit) as ended:
        receive_sigterm()
    assert ended.value.code == 7
    assert started[0].returncode == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_flower_sends_and_installs_nothing(tmp_path, monkeypatch):
    """Whatever the user's environment contains."""
    for name in ("FLWR_TELEMETRY_ENABLED", "FLWR_HOME"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org")
    environment = flower_environment(tmp_path)
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert environment["FLWR_HOME"] == str(tmp_path)
    assert environment["HTTPS_PROXY"] == "http://proxy.example.org"


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_this_machine_is_reached_without_a_proxy(tmp_path, monkeypatch, name):
    """As Python itself reads these variables."""
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org")
    monkeypatch.setenv(name, "hospital.example.org")
    for variable, value in flower_environment(tmp_path).items():
        monkeypatch.setenv(variable, value)
    hosts = ("127.0.0.1", "localhost", "::1", "hospital.example.org", "elsewhere.example.org")
    assert [bool(proxy_bypass_environment(host)) for host in hosts] == [True, True, True, True, False]


def test_without_flower_the_error_names_how_to_install_it(monkeypatch):
    monkeypatch.setattr(processes, "find_spec", lambda name: None)
    with pytest.raises(DeploymentError, match="needs Flower") as caught:
        require_flower()
    assert "[flower]" in caught.value.hint
    assert "make install-flower" in caught.value.hint
