"""Addresses, and servers that are not there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feddtl.errors import ConfigError
from feddtl.launch.connection import Address, proxy_variable, unreachable
from feddtl.launch.processes import free_port

NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z0-9]{1,9}){0,3}", fullmatch=True)
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
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ConfigError, match="no HOST:PORT") as caught:
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
