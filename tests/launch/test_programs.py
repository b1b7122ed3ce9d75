"""A server warns who can use it; a client waits for its server, and restarts a SuperNode that ended, with the reason.

The programs are stand-ins.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from launch.fake_programs import fake_program

from feddtl.errors import ConfigError, DeploymentError
from feddtl.launch import programs
from feddtl.launch.connection import PROXY_VARIABLES, Address
from feddtl.launch.programs import serve_forever, take_part_forever

ROOT = Path(__file__).parents[2]
SERVER = Address("server.example.org", 9092)
# Refused at first as after a kill -9, then ends; a helper of it lives on and holds its output open.
SUPERNODE = """
import os, subprocess
open(CALLS, "a").write(json.dumps(sys.argv[1:]) + "\\n")
subprocess.Popen(["sleep", "60"])
if len(open(CALLS).readlines()) == 1:
    print("ERROR : Exit Code: 305\\nNo connection.\\n[code: 2004] Failed to activate SuperNode.")
    sys.exit(1)
print("feddtl: " + os.environ["FEDDTL_STATE"])
sys.exit(3)
"""


class EnoughError(Exception):
    """Ends an endless loop."""


def take_part(tmp_path: Path, **changes: object) -> None:
    state = tmp_path / "state"
    settings = {"client": 2, "server": SERVER, "keys": tmp_path, "state": state, "data": None, "model": None}
    take_part_forever(**{**settings, **changes})


@pytest.fixture
def notes_of(tmp_path, monkeypatch):
    """The notes that a server prints before it starts Flower, which this fixture prevents."""

    def stop(*arguments):
        raise DeploymentError("stopped here", "nothing")

    monkeypatch.setattr(programs, "_require_free", lambda listen: None)
    monkeypatch.setattr(programs, "FlowerCli", stop)

    def ask(host):
        notes = []
        monkeypatch.setattr(programs, "say", notes.append)
        with pytest.raises(DeploymentError, match="stopped here"):
            serve_forever(Address(host, 9092), tmp_path, tmp_path)
        return notes

    return ask


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "10.8.0.1", "2001:db8::7"])
def test_a_server_that_others_can_reach_warns_what_they_can_do(notes_of, host):
    """A private address, too: the server cannot know whether everyone who reaches it is trusted."""
    (note,) = notes_of(host)
    assert "submit runs, which execute any code on this machine and on every client's" in note
    assert str(Address(host, 9092)) in note
    page = note.split("see ")[1].rstrip(".")
    assert (ROOT / page).is_file()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_a_server_on_the_loopback_address_prints_no_warning(notes_of, host):
    assert notes_of(host) == []


@pytest.fixture
def hurry(monkeypatch):
    """No pause between attempts, and no proxy."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(programs, "SECONDS_BETWEEN_ATTEMPTS", 0)


@pytest.fixture
def notes_until_it_ends(tmp_path, monkeypatch, hurry):
    """The notes that a client prints until its SuperNode ends with exit code 3."""

    def run(**changes):
        notes = []

        def note(text):
            notes.append(text)
            if "exit code 3" in text:
                raise EnoughError

        monkeypatch.setattr(programs, "say", note)
        with pytest.raises(EnoughError):
            take_part(tmp_path, **changes)
        return notes

    return run


def test_a_refused_client_explains_it_and_tries_again(tmp_path, monkeypatch, notes_until_it_ends, capsys):
    calls = fake_program(tmp_path / "bin", "flower-supernode", SUPERNODE, monkeypatch)
    monkeypatch.setattr("feddtl.launch.connection.unreachable", lambda address, authority: "")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.JPG").touch()
    notes = notes_until_it_ends(data=tmp_path)
    assert len(calls.read_text().splitlines()) == 2
    refused = notes[1]
    assert "for about a minute" in refused
    assert "Trying again" in refused
    assert capsys.readouterr().err.splitlines()[-1] == f"feddtl: {tmp_path / 'state'}"
    node = tomllib.loads((tmp_path / "state" / "nodes" / "client-2" / "node.toml").read_text())
    assert node == {"partition-id": 2, "data": str(tmp_path)}


def test_a_proxy_is_used_and_named_without_its_password(tmp_path, monkeypatch, notes_until_it_ends):
    """Behind a proxy, a client does not wait for a direct answer of the server."""
    fake_program(tmp_path / "bin", "flower-supernode", "sys.exit(3)", monkeypatch)
    monkeypatch.setattr(
        "feddtl.launch.connection.unreachable", lambda address, authority: pytest.fail("asked directly")
    )
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.example.org")
    notes = notes_until_it_ends()
    assert notes[0].startswith(f"HTTPS_PROXY is set, so {SERVER} is reached through")
    assert "no_proxy" in notes[0]
    assert "secret" not in " ".join(notes)


def test_a_client_waits_for_an_unreachable_server_and_prints_each_reason_once(tmp_path, monkeypatch, hurry):
    answers = iter(["Connection refused", "Connection refused", "No route to host", ""])
    monkeypatch.setattr("feddtl.launch.connection.unreachable", lambda address, authority: next(answers))
    notes = []
    monkeypatch.setattr(programs, "say", notes.append)
    programs._wait_for_server(SERVER, tmp_path / "ca.crt")
    assert notes == [
        f"The server at {SERVER} cannot be reached: {reason}. Waiting for it."
        for reason in ("Connection refused", "No route to host")
    ]


def test_a_lost_server_is_said_once_and_its_return_once(tmp_path, monkeypatch):
    def refuse():
        raise DeploymentError("The certificate is not valid.")

    answers = iter([lambda: "", lambda: "Connection refused", refuse, lambda: "", lambda: ""])
    monkeypatch.setattr(programs, "unreachable", lambda address, authority: next(answers)())
    notes = []
    monkeypatch.setattr(programs, "say", notes.append)
    watch = programs.ServerWatch(SERVER, tmp_path / "ca.crt")
    for _ in range(5):
        watch.look()
    assert notes == [
        f"The server at {SERVER} no longer answers: Connection refused. Its run may have ended. Waiting for it.",
        f"The server at {SERVER} answers again.",
    ]


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_a_client_that_is_told_to_stop_says_so(tmp_path, monkeypatch, hurry, end):
    def run(*arguments, **named):
        raise end

    monkeypatch.setattr(programs, "_wait_for_server", lambda server, authority: None)
    monkeypatch.setattr(programs, "_run_supernode", run)
    notes = []
    monkeypatch.setattr(programs, "say", notes.append)
    with pytest.raises(end):
        take_part(tmp_path)
    assert notes[-1] == "Client 2 was told to stop, and has disconnected."


def test_a_working_directory_with_files_in_it_is_refused(tmp_path):
    folder = programs._empty_folder(tmp_path / "a" / "empty")
    assert programs._empty_folder(folder) == folder
    (folder / "torch.py").touch()
    with pytest.raises(DeploymentError, match="is not empty"):
        programs._empty_folder(folder)
    assert (folder / "torch.py").exists()


@pytest.mark.parametrize("flag", ["data", "model"])
def test_a_missing_path_is_refused(tmp_path, flag):
    with pytest.raises(ConfigError, match=rf"--{flag} .*nowhere does not exist; nothing was started"):
        take_part(tmp_path, **{flag: tmp_path / "nowhere"})


def test_a_folder_without_images_is_refused_at_the_start(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"--data .* contains no image and no parquet file; nothing was started"):
        take_part(tmp_path, data=tmp_path)
    (tmp_path / "train-00000.parquet").touch()
    for data in (tmp_path, tmp_path / "notes.txt"):
        programs._check_client(0, data, None)


def test_an_unreadable_folder_is_not_reported_as_empty(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", f"{path}/cat")

    monkeypatch.setattr(programs, "contains_images", refuse)
    with pytest.raises(ConfigError, match=r"cannot be read: Permission denied, .*/cat; nothing was started"):
        take_part(tmp_path, data=tmp_path)


def test_client_ids_start_at_0(tmp_path):
    with pytest.raises(ConfigError, match="--id is -1"):
        take_part(tmp_path, client=-1)
