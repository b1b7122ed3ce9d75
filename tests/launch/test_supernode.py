"""A client waits for its server, starts again what ended, and says why; the programs are stand-ins."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from launch.fake_programs import fake_program

from feddtl.errors import ConfigError
from feddtl.launch import supernode
from feddtl.launch.connection import PROXIES, Address
from feddtl.launch.key_folders import ClientKeys
from feddtl.launch.supernode import ClientPlace, take_part_forever

SERVER = Address("server.example.org", 9092)
# Refused at first as after a kill -9, then ends; a helper of it lives on and holds its output open.
SUPERNODE = """
import os, subprocess
open(CALLS, "a").write(json.dumps(sys.argv[1:]) + "\\n")
subprocess.Popen(["sleep", "3"])
if len(open(CALLS).readlines()) == 1:
    print("[code: 2004] Failed to activate SuperNode.")
    sys.exit(1)
print(os.environ["FEDDTL_STATE"])
sys.exit(3)
"""


class EnoughError(Exception):
    """Ends what would go on for ever."""


def place(tmp_path: Path, **changes: object) -> ClientPlace:
    keys = ClientKeys(tmp_path / "ca.crt", tmp_path / "node.key")
    settings = {"client": 2, "server": SERVER, "keys": keys, "state": tmp_path / "state", "data": None, "model": None}
    return ClientPlace(**{**settings, **changes})


@pytest.fixture
def hurry(monkeypatch):
    """No waiting between tries, and no proxy."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(supernode, "SECONDS_BETWEEN_TRIES", 0)


def notes_until_it_ends(place):
    """What a client says until its SuperNode ended by itself, with exit code 3."""
    notes = []

    def note(text):
        notes.append(text)
        if "exit code 3" in text:
            raise EnoughError

    with pytest.raises(EnoughError):
        take_part_forever(place, note)
    return notes


def test_a_refusal_is_explained_and_tried_again(tmp_path, monkeypatch, hurry, capsys):
    calls = fake_program(tmp_path / "bin", "flower-supernode", SUPERNODE, monkeypatch)
    monkeypatch.setattr(supernode, "unreachable", lambda address, authority: "")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.JPG").touch()
    notes = notes_until_it_ends(place(tmp_path, data=tmp_path))
    assert len(calls.read_text().splitlines()) == 2
    refused = notes[1]
    assert "for about a minute" in refused
    assert "Trying again" in refused
    assert capsys.readouterr().err.splitlines()[-1] == str(tmp_path / "state")
    node = tomllib.loads((tmp_path / "state" / "nodes" / "client-2" / "node.toml").read_text())
    assert node == {"partition-id": 2, "data": str(tmp_path)}


def test_a_proxy_is_named_without_its_password_and_not_gone_round(tmp_path, monkeypatch, hurry):
    """Where a proxy is the only way out, a server that does not answer directly is none to wait for."""
    fake_program(tmp_path / "bin", "flower-supernode", "sys.exit(3)", monkeypatch)
    monkeypatch.setattr(supernode, "unreachable", lambda address, authority: pytest.fail("asked directly"))
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.example.org")
    notes = notes_until_it_ends(place(tmp_path))
    assert notes[0].startswith(f"HTTPS_PROXY is set, so {SERVER} is reached through")
    assert "no_proxy" in notes[0]
    assert "secret" not in " ".join(notes)


def test_a_server_that_is_away_is_waited_for_and_named_once(tmp_path, monkeypatch, hurry):
    answers = iter(["Connection refused", "Connection refused", "No route to host", ""])
    monkeypatch.setattr(supernode, "unreachable", lambda address, authority: next(answers))
    notes = []
    supernode._wait_for_server(place(tmp_path), notes.append)
    assert notes == [
        f"The server at {SERVER} cannot be reached: {reason}. Waiting for it."
        for reason in ("Connection refused", "No route to host")
    ]


@pytest.mark.parametrize("flag", ["data", "model"])
def test_a_path_that_is_not_there_is_refused(tmp_path, flag):
    with pytest.raises(ConfigError, match=rf"--{flag} .*nowhere does not exist; nothing was started"):
        place(tmp_path, **{flag: tmp_path / "nowhere"})


def test_a_folder_without_images_is_refused_at_the_start(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"--data .* has no image and no parquet file in it; nothing was started"):
        place(tmp_path, data=tmp_path)
    (tmp_path / "train-00000.parquet").touch()
    assert place(tmp_path, data=tmp_path).data == place(tmp_path, data=tmp_path / "notes.txt").data.parent


def test_a_folder_that_cannot_be_read_is_not_taken_for_empty(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", f"{path}/cat")

    monkeypatch.setattr(supernode, "holds_images", refuse)
    with pytest.raises(ConfigError, match=r"cannot be read: Permission denied, .*/cat; nothing was started"):
        place(tmp_path, data=tmp_path)


def test_a_client_is_counted_from_0(tmp_path):
    with pytest.raises(ConfigError, match="--id is -1"):
        place(tmp_path, client=-1)
