"""Addresses, servers that do not answer, Flower's configuration, and folders of keys, whole or for one machine."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feddtl.errors import ConfigError
from feddtl.launch import connection
from feddtl.launch.connection import (
    Address,
    client_keys,
    failed_attempts,
    proxy_variable,
    public_keys,
    read_connection,
    server_keys,
    toml_text,
    unreachable,
    write_connection,
)
from feddtl.launch.processes import free_port

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))

NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z0-9]{1,9}){0,3}", fullmatch=True)
FILES = (
    *("ca/ca.key", "ca/ca.crt", "server/ca.crt", "server/server.crt", "server/server.key"),
    *("server/clients/client-0.pub", "server/clients/client-1.pub", "client-1/ca.crt", "client-1/node.key"),
)
HOSTS = NAMES | st.ip_addresses().map(str)


@given(HOSTS, st.integers(1, 65535))
def test_an_address_is_read_as_it_is_written(host, port):
    assert Address.parse(str(Address(host, port))) == Address(host, port)


@pytest.mark.parametrize(
    "text",
    [
        *("", "host", "host:", ":9092", "host:0", "host:65536", "host:-1", "host:x", "::1:9092", "[host]:1", "[]:1"),
        # Names that Python's encoding for host names refuses with an error of its own.
        *("a..b:9092", ".a:9092", f"{'a' * 64}:9092", "a b:9092", "https://host:9092", "10.0.0.256:9092"),
        f"host:{'9' * 5000}",
    ],
)
def test_a_malformed_address_is_refused(text):
    with pytest.raises(ConfigError, match="not HOST:PORT") as caught:
        Address.parse(text)
    assert "9092" in caught.value.hint


def test_an_authority_that_cannot_be_read_is_named(tmp_path):
    for content in (None, "no certificate"):
        path = tmp_path / "ca.crt"
        if content is not None:
            path.write_text(content)
        with pytest.raises(ConfigError, match=r"ca\.crt"):
            unreachable(Address("127.0.0.1", free_port()), path)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ""),
        ({"HTTP_PROXY": "http://proxy"}, ""),  # the server is asked with TLS
        ({"HTTPS_PROXY": "http://proxy"}, "HTTPS_PROXY"),
        ({"ALL_PROXY": "http://proxy", "https_proxy": "http://proxy"}, "https_proxy"),
        ({"all_proxy": "http://proxy", "no_proxy": "other.org"}, "all_proxy"),
        ({"HTTPS_PROXY": "http://proxy", "no_proxy": "localhost, example.org"}, ""),
        ({"HTTPS_PROXY": "http://proxy", "no_proxy": "*"}, ""),
    ],
)
def test_the_variable_that_names_a_proxy(environment, expected):
    assert proxy_variable(Address("federation.example.org", 9092), environment) == expected


def test_attempts_end_when_the_server_answers(tmp_path, monkeypatch):
    answers = iter(["Connection refused", "No route to host", ""])
    monkeypatch.setattr(connection, "unreachable", lambda address, authority: next(answers))
    address = Address("127.0.0.1", 9092)
    assert list(failed_attempts(address, tmp_path / "ca.crt", 0)) == ["Connection refused", "No route to host"]


def test_the_server_and_its_authority_are_named_in_the_home_folder(tmp_path):
    address, authority = Address("::1", 9092), tmp_path / "a 'b'" / "ca.crt"
    write_connection(tmp_path, address, authority)
    assert tomllib.loads((tmp_path / "config.toml").read_text())["superlink"] == {
        "default": "feddtl",
        "feddtl": {"address": "[::1]:9092", "root-certificates": str(authority)},
    }
    assert read_connection(tmp_path) == (address, authority)


@given(st.dictionaries(st.from_regex(r"[a-z][a-z-]*", fullmatch=True), TEXTS | st.booleans() | st.integers(0, 9)))
def test_python_reads_what_was_written(values):
    assert tomllib.loads(toml_text(values)) == values


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def test_the_whole_folder_and_the_part_for_one_machine_are_equal(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert server_keys(folder) == server_keys(folder / "server") == server_keys(type(folder)("server"))
    assert client_keys(folder, 1) == client_keys(folder / "client-1", 1)
    assert [path.name for path in public_keys(server_keys(folder))] == ["client-0.pub", "client-1.pub"]
    assert (server_keys(folder) / "server.key").read_text() == "server/server.key"
    assert (client_keys(folder, 1) / "node.key").read_text() == "client-1/node.key"


@pytest.mark.parametrize("missing", ["ca.crt", "server.crt", "server.key"])
def test_a_missing_file_of_the_server_is_named(folder, missing):
    (folder / "server" / missing).unlink()
    with pytest.raises(ConfigError, match=f"There is no .*server/{missing}") as caught:
        server_keys(folder)
    assert "feddtl keys" in caught.value.hint


def test_a_server_that_nobody_could_connect_to_is_refused(folder):
    for path in (folder / "server" / "clients").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="no client could connect"):
        server_keys(folder)


def test_the_folder_of_another_client_is_refused(folder):
    with pytest.raises(ConfigError, match=r"contains the keys of client-1, but --id is 0; nothing was started"):
        client_keys(folder / "client-1", 0)
    with pytest.raises(ConfigError, match="There is no") as caught:
        client_keys(folder, 0)
    assert "client-0/" in caught.value.hint
