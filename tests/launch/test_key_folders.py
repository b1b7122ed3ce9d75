"""Folders of keys, whole or the part of one party."""

from __future__ import annotations

import pytest

from feddtl.errors import ConfigError
from feddtl.launch.key_folders import client_keys, server_keys

FILES = (
    *("ca/ca.key", "ca/ca.crt", "server/ca.crt", "server/server.crt", "server/server.key"),
    *("server/clients/client-0.pub", "server/clients/client-1.pub", "client-1/ca.crt", "client-1/node.key"),
)


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def test_the_whole_folder_and_the_part_of_a_party_are_the_same(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert server_keys(folder) == server_keys(folder / "server") == server_keys(type(folder)("server"))
    assert client_keys(folder, 1) == client_keys(folder / "client-1", 1)
    assert [path.name for path in server_keys(folder).clients] == ["client-0.pub", "client-1.pub"]
    assert server_keys(folder).key.read_text() == "server/server.key"
    assert client_keys(folder, 1).key.read_text() == "client-1/node.key"


@pytest.mark.parametrize("missing", ["ca.crt", "server.crt", "server.key"])
def test_a_missing_file_of_the_server_is_named(folder, missing):
    (folder / "server" / missing).unlink()
    with pytest.raises(ConfigError, match=f"There is no .*server/{missing}") as caught:
        server_keys(folder)
    assert "feddtl keys" in caught.value.hint


def test_a_server_that_nobody_could_connect_to_is_refused(folder):
    for path in (folder / "server" / "clients").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="nobody could connect"):
        server_keys(folder)


def test_the_folder_of_another_client_is_not_taken(folder):
    with pytest.raises(ConfigError, match=r"client-1 are those of client-1, and --id is 0; nothing was started"):
        client_keys(folder / "client-1", 0)
    with pytest.raises(ConfigError, match="There is no") as caught:
        client_keys(folder, 0)
    assert "client-0/" in caught.value.hint
