"""Keys: their files and permissions, and that TLS and Flower accept them."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from ipaddress import ip_address

import pytest

pytest.importorskip("cryptography", reason="needs the extra [flower]: make test-flower")

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from feddtl.errors import ConfigError, DeploymentError, RunError
from feddtl.launch.connection import Address, client_keys, public_keys, server_keys, unreachable
from feddtl.launch.keys import require_public_keys, write_keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys") / "ours"
    write_keys(folder, ("federation.example.org", "192.0.2.7"), clients=2, days=30)
    return folder


@pytest.fixture
def listening(keys):
    """A TLS server with the server's certificate; its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "server" / "server.crt", keys / "server" / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def greet():
            while True:
                try:
                    with context.wrap_socket(plain.accept()[0], server_side=True):
                        pass
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        yield Address("127.0.0.1", plain.getsockname()[1])
        plain.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_private_files_and_all_folders_are_for_the_owner_only(keys):
    modes = {path.relative_to(keys).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in keys.rglob("*")}
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert {name for name, mode in modes.items() if mode == 0o600} >= {
        "ca/ca.key",
        "server/server.key",
        "client-0/node.key",
        "client-1/node.key",
    }
    assert all(mode == 0o700 for name, mode in modes.items() if (keys / name).is_dir())


def test_a_client_gets_only_its_own_key(keys):
    """A client's folder has its key, and the certificate with which it verifies the server."""
    assert {path.name for path in (keys / "client-1").iterdir()} == {"node.key", "node.pub", "ca.crt"}
    authority = (keys / "ca" / "ca.crt").read_bytes()
    assert (keys / "client-1" / "ca.crt").read_bytes() == (keys / "server" / "ca.crt").read_bytes() == authority


def test_a_node_key_is_of_a_curve_that_flower_accepts_and_the_server_has_its_public_half(keys):
    public = set()
    for client in range(2):
        private = load_ssh_private_key((client_keys(keys, client) / "node.key").read_bytes(), password=None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        assert private.curve.name == "secp384r1"
        half = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        assert public_keys(server_keys(keys))[client].read_bytes().strip() == half
        public.add(half)
    assert len(public) == 2


def test_the_certificate_names_the_hosts_and_the_loopback_interface(keys):
    certificate = x509.load_pem_x509_certificate((server_keys(keys) / "server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"federation.example.org", "localhost"}
    assert set(names.get_values_for_type(x509.IPAddress)) == set(map(ip_address, ("192.0.2.7", "127.0.0.1", "::1")))
    # A day early for clocks that differ.
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 31


def test_the_server_is_verified_by_its_authority(keys, listening):
    assert unreachable(listening, client_keys(keys, 0) / "ca.crt") == ""


def test_another_authority_does_not_verify_it(listening, tmp_path):
    write_keys(tmp_path / "others", ("localhost",), clients=1, days=1)
    with pytest.raises(DeploymentError, match=r"certificate of the server .* is not valid") as caught:
        unreachable(listening, tmp_path / "others" / "ca" / "ca.crt")
    assert "feddtl keys --hosts" in caught.value.hint


def of_another_kind(key):
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Cannot read the public key"),
        (b"ssh-ed25519 no base64", "Cannot read the public key"),
        (of_another_kind(ed25519.Ed25519PrivateKey.generate()), "not of a NIST curve"),
    ],
    # Names that are the same in every process that collects the tests.
    ids=["empty", "no base64", "ed25519"],
)
def test_a_public_key_that_flower_would_refuse_is_named(keys, tmp_path, content, reason):
    (tmp_path / "client-7.pub").write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as caught:
        require_public_keys([*public_keys(server_keys(keys)), tmp_path / "client-7.pub"])
    assert reason in caught.value.message
    assert str(tmp_path / "client-7.pub") in caught.value.message


def test_two_clients_with_one_key_are_refused(keys, tmp_path):
    first, second = public_keys(server_keys(keys))
    require_public_keys([first, second])
    (tmp_path / "client-2.pub").write_bytes(first.read_bytes().strip() + b" a comment\n")
    with pytest.raises(ConfigError, match=r"client-0\.pub and .*client-2\.pub are the same key"):
        require_public_keys([first, second, tmp_path / "client-2.pub"])


def test_keys_are_never_replaced(keys):
    before = {path: path.read_bytes() for path in keys.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="already exists"):
        write_keys(keys, ("localhost",), clients=1, days=1)
    assert {path: path.read_bytes() for path in keys.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("host", ["", "https://example.org", "example.org:9092", "10.0.0.256", "a b", "-x", "a/b"])
def test_a_malformed_host_is_refused(tmp_path, host):
    with pytest.raises(ConfigError, match="neither a host name nor an IP address"):
        write_keys(tmp_path / "keys", (host,), clients=1, days=1)
    assert list(tmp_path.iterdir()) == []


def test_the_longest_validity_that_is_allowed_can_be_written(tmp_path):
    write_keys(tmp_path / "keys", ("localhost",), clients=1, days=36500)
    certificate = x509.load_pem_x509_certificate((server_keys(tmp_path / "keys") / "server.crt").read_bytes())
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 36501


@pytest.mark.parametrize(
    ("clients", "days", "flag"),
    [(0, 1, "--clients is 0"), (1, 0, "--days is 0"), (1, 3_000_000, "--days is 3000000")],
)
def test_numbers_out_of_range_are_refused(tmp_path, clients, days, flag):
    with pytest.raises(ConfigError, match=flag):
        write_keys(tmp_path / "keys", ("localhost",), clients=clients, days=days)
    assert list(tmp_path.iterdir()) == []
