"""The page in a browser: what is served and to whom, and that it follows runs as they go on."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
from cli.small_runs import contents

from feddtl.cli import main
from feddtl.report import following
from feddtl.report.following import FollowedRuns
from feddtl.report.serving import PageServer
from feddtl.results.reading import Collection
from feddtl.storage import only_writer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
Get = Callable[..., tuple[int, str]]


@pytest.fixture
def run(several: Path, tmp_path: Path) -> Path:
    """A run in a folder, to change."""
    return Path(shutil.copytree(several / "runs/fedlora-seed0", tmp_path / "runs/one"))


def states(collected: Collection, *, images: bool, images_of: object, version: str) -> str:
    """A page without tables and figures."""
    runs = [f"{run.name}: {len(run.records)} rounds{', finished' * bool(run.summary)}" for run in collected.runs]
    return "\n".join([version, *runs, *collected.problems])


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "render", states)


@pytest.fixture
def server(run: Path) -> Iterator[PageServer]:
    with PageServer(FollowedRuns(run.parent, images=False), 0) as found:
        thread = Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def get(server: PageServer) -> Get:
    def ask(path: str = "/", host: str = "", method: str = "GET") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        connection.request(method, path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    return ask


def unfinish(run: Path) -> str:
    """Take a run back to before its last round; returns the record of that round."""
    for name in ("summary.json", "predictions.safetensors"):
        (run / name).unlink()
    *lines, last = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines))
    return last


@pytest.mark.usefixtures("plain")
def test_the_page_follows_a_run(run: Path, get: Get) -> None:
    before = contents(run)
    finished = json.loads(get("/state")[1])
    assert finished["lines"] == ["No run is running. A run that starts in this folder will appear here."]
    assert get()[1].splitlines() == [finished["version"], "one: 4 rounds, finished"]
    assert contents(run) == before  # no file is written
    last = unfinish(run)
    with only_writer(run):
        assert json.loads(get("/state")[1])["lines"][0].startswith("one: ")
        version, text = get()[1].splitlines()
        assert text == "one: 3 rounds"
        with (run / "metrics.jsonl").open("a") as file:
            file.write(last)
        state = json.loads(get("/state")[1])
        assert state["version"] not in (version, finished["version"])
        assert get()[1].splitlines() == [state["version"], "one: 4 rounds"]


def test_before_a_run_has_begun(run: Path, get: Get) -> None:
    """A run that loads its data is no problem; one that was stopped then is, and a folder may still be empty."""
    for name in ("data.json", "summary.json", "metrics.jsonl", "log.jsonl"):
        (run / name).unlink()
    (run.parent / "empty").mkdir()
    with only_writer(run):
        page, state = get()[1], json.loads(get("/state")[1])
        assert f'data-version="{state["version"]}"' in page
        assert '<script src="follow.js" defer></script>' in page
        assert "No run has begun yet" in page
        assert "could be read" not in page
        assert state["lines"] == ["one: loading data and model"]
    problem = "one was stopped before its first round"
    assert problem not in page
    assert problem in FollowedRuns(run.parent).page()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9000", "[::1]:80"])
def test_names_of_this_machine(get: Get, host: str) -> None:
    assert get("/state", host)[0] == 200


@pytest.mark.parametrize(
    ("path", "host", "method", "status"),
    [
        ("/", "rebound.example", "GET", 421),
        ("/", "localhost.rebound.example:80", "GET", 421),
        ("/one/config.json", "", "GET", 404),
        ("/../one/config.json", "", "GET", 404),
        ("/", "", "POST", 501),
    ],
)
def test_what_is_refused(get: Get, path: str, host: str, method: str, status: int) -> None:
    found, text = get(path, host, method)
    assert found == status
    assert "FedLoRA" not in text


def test_a_port_that_is_taken(server: PageServer, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--serve", str(run), "--port", str(server.server_port)]) == 1
    assert "--port 0 takes a free one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--port", "80"), "--port has no effect without --serve"),
        (("--serve", "--port", "65536"), "--port = 65536 is out of range"),
        (("--serve", "--json"), "--json has no effect with --serve"),
        (("--serve", "--output", "page.html"), "--output has no effect with --serve"),
        (("--serve", "nowhere"), "There is no folder nowhere"),
    ],
)
def test_flags_that_do_not_fit(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *words]) == 1
    assert message in capsys.readouterr().err


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """Also where the tests were started in the background by a shell, which lets them ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_ctrl_c_ends_it_cleanly(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def interrupt() -> None:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = Thread(target=interrupt)
    thread.start()
    assert main(["report", "--serve", str(run), "--port", str(port)]) == 0
    thread.join()
    said = capsys.readouterr()
    assert said.out == f"{run} is shown at http://127.0.0.1:{port}/ until Ctrl-C\n"
    assert said.err == "ended; running runs continue\n"


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_a_browser_shows_a_round_when_it_has_ended(run: Path, server: PageServer, tmp_path: Path) -> None:
    """A round ends when the page has asked twice. Its clock runs fast, but not while it waits for an answer."""
    last, asked, (kind, state) = unfinish(run), [], server.answers["/state"]

    def end_round() -> str:
        asked.append(state())
        if len(asked) == 2:
            with (run / "metrics.jsonl").open("a") as file:
                file.write(last)
        return asked[-1]

    server.answers["/state"] = kind, end_round
    words = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    words += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--virtual-time-budget=60000", "--dump-dom"]
    with only_writer(run):
        page = subprocess.run([*words, server.address], capture_output=True, text=True, timeout=300).stdout
    assert "unfinished, 4 of 4 rounds" in page
    assert "unfinished, 3 of 4 rounds" not in page
    assert "<li>one: " in page
