"""The parts of the federation benchmarks that can be told right from wrong without a federation."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.federation.federation import as_toml, wait_for  # noqa: E402
from benchmarks.federation.processes import Watch, alive, processes, program  # noqa: E402
from benchmarks.federation.wide_area import Link, Port, departure  # noqa: E402
from feddtl.config import DataConfig, Experiment  # noqa: E402
from feddtl.experiment_file import load_experiment  # noqa: E402

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
# A child in a session of its own, which outlives its parent.
NESTED = (
    "import subprocess, sys, time; "
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True); time.sleep(600)"
)


def test_packets_wait_for_their_turn():
    """1500 bytes at 12 kbit/s take one second; the third comes after a pause of two, when the link is free again."""
    port, link = Port(device=0), Link(rate=12_000.0)
    assert [departure(port, 1500, link, now) for now in (0.0, 0.5, 4.0)] == [1.0, 2.0, 5.0]


def test_a_link_without_a_rate_takes_no_time():
    port = Port(device=0)
    assert [departure(port, 1500, Link(), now) for now in (3.0, 3.0)] == [3.0, 3.0]


@pytest.mark.parametrize(
    "experiment", [Experiment(), Experiment(rounds=3, data=DataConfig(source='a "b"\\c', shots=2))]
)
def test_an_experiment_comes_back_from_its_file(tmp_path, experiment):
    path = tmp_path / "x.toml"
    path.write_text(as_toml(experiment))
    assert load_experiment(path) == experiment
    assert tomllib.loads(path.read_text())["rounds"] == experiment.rounds


@needs_proc
def test_the_processes_of_a_role_end_with_the_block_even_those_whose_parent_was_killed(tmp_path):
    with processes() as started:
        first = started.start([sys.executable, "-c", NESTED], tmp_path / "log", role="a")
        started.start([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log", role="b")
        wait_for("three processes", lambda: len(started.members()) == 3, 60)
        first.send_signal(signal.SIGKILL)
        first.wait()
        [orphan], [other] = started.members("a"), started.members("b")
        started.kill("a")
        assert not alive(orphan)
        assert alive(other)
        assert started.members() == [other]
    assert not alive(other)


@needs_proc
def test_a_block_that_is_terminated_leaves_nothing_behind(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from benchmarks.federation.processes import processes\n"
        "with processes() as started:\n"
        "    child = started.start([sys.executable, '-c', 'import time; time.sleep(600)'], Path(sys.argv[1]))\n"
        "    print(child.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "log")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as script:
        child = int(script.stdout.readline())
        assert alive(child)
        script.terminate()
        assert script.wait(60) == 128 + signal.SIGTERM
    assert not alive(child)


@needs_proc
def test_memory_is_that_of_the_watched_processes(tmp_path):
    """A child that holds 64 MB: its peak and the sum are above that, and below that and an interpreter."""
    code = "import time; held = bytearray(b'x') * (64 << 20); time.sleep(600)"
    with processes() as started:
        child = started.start([sys.executable, "-c", code], tmp_path / "log", role="one")
        watch = Watch(started, ["one"])
        watch.start()
        wait_for("the memory", lambda: watch.most > 64 << 20, 60)
        time.sleep(1.5)
        watch.stop()
        assert watch.seen == {child.pid}
        [(name, peak)] = watch.peaks.items()
        assert name == f"one {program(child.pid)}"
        assert 64 << 20 < watch.most <= peak < 100 << 20


def test_what_does_not_happen_is_named():
    with pytest.raises(TimeoutError, match=r"rain: not within 0\.1 seconds"):
        wait_for("rain", lambda: False, 0.1)
