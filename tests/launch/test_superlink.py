"""What `feddtl server` says of the address that it listens on."""

from __future__ import annotations

from pathlib import Path

import pytest

from feddtl.errors import DeploymentError
from feddtl.launch import superlink
from feddtl.launch.connection import Address
from feddtl.launch.key_folders import ServerKeys
from feddtl.launch.superlink import ServerPlace, serve_forever

ROOT = Path(__file__).parents[2]


@pytest.fixture
def notes_of(tmp_path, monkeypatch):
    """What a server notes before it starts Flower, which it is kept from."""

    def stop(*arguments):
        raise DeploymentError("stopped here", "nothing")

    monkeypatch.setattr(superlink, "_require_free", lambda listen: None)
    monkeypatch.setattr(superlink, "FlowerCli", stop)

    def ask(host):
        notes = []
        keys = ServerKeys(*[tmp_path] * 3, ())
        with pytest.raises(DeploymentError, match="stopped here"):
            serve_forever(ServerPlace(Address(host, 9092), keys, tmp_path), notes.append)
        return notes

    return ask


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "10.8.0.1", "2001:db8::7"])
def test_a_server_that_others_reach_says_what_they_can_do(notes_of, host):
    """A private address too: whether all who reach it are trusted is not for the server to know."""
    (note,) = notes_of(host)
    assert "submit runs, which run code of his choice on this machine and on every client's" in note
    assert str(Address(host, 9092)) in note
    page = note.split("see ")[1].rstrip(".")
    assert (ROOT / page).is_file()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_a_server_on_the_loopback_address_says_nothing(notes_of, host):
    assert notes_of(host) == []
