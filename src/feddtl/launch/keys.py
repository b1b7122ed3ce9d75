"""Who may take part: a certificate authority, the server's certificate, and a key for each client.

ca/        ca.key ca.crt: signs the server's certificate; needed nowhere else
server/    server.crt server.key ca.crt clients/client-0.pub …
client-0/  node.key node.pub ca.crt
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from feddtl.errors import ConfigError, RunError
from feddtl.launch.connection import LOOPBACK, is_host
from feddtl.launch.key_folders import AUTHORITY, CERTIFICATE, CLIENTS, NODE_KEY, SERVER_KEY, client_name
from feddtl.storage import new_folder

# A NIST curve, as Flower's node authentication demands, and the largest that every TLS library speaks.
CURVE = ec.SECP384R1
LONGEST = 36500  # days that a certificate may be valid: dates end with the year 9999


@dataclass(frozen=True)
class Authority:
    """Signs certificates.

    Attributes:
        key: Its private key.
        certificate: Signed by itself.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def write_keys(folder: Path, hosts: Sequence[str], clients: int, days: int) -> None:
    """Write a new folder of keys; private files and all folders are for their owner alone.

    Args:
        folder: New; see the head of this module for what it holds.
        hosts: Names and addresses by which clients reach the server, beside those of the loopback interface.
        clients: How many client keys.
        days: How long the certificates are valid.

    Raises:
        ConfigError: A host is no name and no address, or a number is out of range.
        RunError: The folder holds something, or cannot be written.
    """
    if clients < 1:
        raise ConfigError(f"--clients is {clients}.", "There is at least one client.")
    if not 1 <= days <= LONGEST:
        raise ConfigError(f"--days is {days}.", f"A certificate is valid for 1 to {LONGEST} days.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} is there already; nothing was changed.", "Name a new folder; no key is replaced.")
    # SuperLink's own processes reach it over the loopback interface.
    names = [_subject_alternative_name(host) for host in dict.fromkeys((*hosts, *LOOPBACK))]
    authority = _make_authority(days)
    with new_folder(folder, mode=0o700) as draft:
        _write_authority(draft / "ca", authority)
        _write_server(draft / "server", authority, names, days)
        for client in range(clients):
            _write_client(draft, client, authority)


def _write_authority(folder: Path, authority: Authority) -> None:
    folder.mkdir(mode=0o700)
    _write_private(folder / "ca.key", _pem_of_key(authority.key))
    (folder / AUTHORITY).write_bytes(_pem_of(authority.certificate))


def _write_server(folder: Path, authority: Authority, names: Sequence[x509.GeneralName], days: int) -> None:
    folder.mkdir(mode=0o700)
    (folder / CLIENTS).mkdir(mode=0o700)
    key = ec.generate_private_key(CURVE())
    _write_private(folder / SERVER_KEY, _pem_of_key(key))
    (folder / CERTIFICATE).write_bytes(_pem_of(_sign_server(authority, key.public_key(), names, days)))
    (folder / AUTHORITY).write_bytes(_pem_of(authority.certificate))


def _write_client(draft: Path, client: int, authority: Authority) -> None:
    folder = draft / client_name(client)
    folder.mkdir(mode=0o700)
    key = ec.generate_private_key(CURVE())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    _write_private(folder / NODE_KEY, private)
    (folder / "node.pub").write_bytes(public + b"\n")
    (folder / AUTHORITY).write_bytes(_pem_of(authority.certificate))
    (draft / "server" / CLIENTS / f"{client_name(client)}.pub").write_bytes(public + b"\n")


def _make_authority(days: int) -> Authority:
    key = ec.generate_private_key(CURVE())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "feddtl certificate authority")])
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    builder = (
        _certificate(name, key.public_key(), days)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Authority(key, builder.sign(key, hashes.SHA384()))


def _sign_server(
    authority: Authority, public: ec.EllipticCurvePublicKey, names: Sequence[x509.GeneralName], days: int
) -> x509.Certificate:
    """A certificate for TLS servers of these names."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "feddtl server")])
    builder = (
        _certificate(name, public, days)
        .issuer_name(authority.certificate.subject)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    return builder.sign(authority.key, hashes.SHA384())


def _certificate(name: x509.Name, public: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    # A day early: the clocks of two machines differ.
    begins = datetime.now(UTC) - timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=days + 1))
    )


def _key_usage(**allowed: bool) -> x509.KeyUsage:
    every = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{use: allowed.get(use, False) for use in every})


def _subject_alternative_name(host: str) -> x509.GeneralName:
    if not is_host(host):
        raise ConfigError(
            f"--hosts has {host!r}, which is neither a host name nor an IP address.",
            "Give names and addresses alone: no port, no https://, no path.",
        )
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem_of(certificate: x509.Certificate) -> bytes:
    pem: bytes = certificate.public_bytes(serialization.Encoding.PEM)
    return pem


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    pem: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return pem


def _write_private(path: Path, content: bytes) -> None:
    """A file that nobody else could read at any time."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
