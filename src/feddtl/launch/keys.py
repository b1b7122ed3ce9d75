"""Writes the keys of a federation: a certificate authority, the server's certificate, and a key for each client.

ca/        ca.key ca.crt: signs the server's certificate; needed nowhere else
server/    server.crt server.key ca.crt clients/client-0.pub …
client-0/  node.key node.pub ca.crt
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from feddtl.errors import ConfigError, RunError
from feddtl.launch.connection import (
    AUTHORITY,
    CERTIFICATE,
    CLIENTS,
    LOOPBACK,
    NODE_KEY,
    SERVER_KEY,
    client_name,
    is_host,
)
from feddtl.storage import new_folder

# Flower's node authentication demands a NIST curve; this is the largest that every TLS library supports.
CURVE = ec.SECP384R1
MAX_DAYS = 36500  # a certificate cannot hold a date after the year 9999


@dataclass(frozen=True)
class Authority:
    """A certificate authority: its private key, and the certificate that it signed for itself."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def write_keys(folder: Path, hosts: Sequence[str], clients: int, days: int) -> None:
    """Write a new folder of keys. Only the owner can read the folders and the private keys.

    Args:
        folder: New folder; the head of this module lists its files.
        hosts: Names and addresses by which clients reach the server. The loopback interface is always added.
        clients: Number of client keys.
        days: How long the certificates are valid.

    Raises:
        ConfigError: A host is neither a name nor an address, or a number is out of range.
        RunError: The folder is not empty, or cannot be written.
    """
    if clients < 1:
        raise ConfigError(f"--clients is {clients}.", "Set --clients to 1 or more.")
    if not 1 <= days <= MAX_DAYS:
        raise ConfigError(f"--days is {days}.", f"Set --days to a number from 1 to {MAX_DAYS}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} already exists; nothing was changed.", "Name a new folder: keys are never replaced.")
    # SuperLink's own processes connect to it over the loopback interface.
    names = [_subject_alternative_name(host) for host in dict.fromkeys((*hosts, *LOOPBACK))]
    authority = _make_authority(days)
    certificate, key = _pem(authority.certificate), ec.generate_private_key(CURVE())
    with new_folder(folder, mode=0o700) as draft:
        _write_folder(draft / "ca", certificate, {"ca.key": _private_pem(authority.key)})
        _write_folder(draft / "server", certificate, {SERVER_KEY: _private_pem(key)})
        (draft / "server" / CERTIFICATE).write_bytes(_pem(_sign_server(authority, key.public_key(), names, days)))
        (draft / "server" / CLIENTS).mkdir(mode=0o700)
        for name in map(client_name, range(clients)):
            key = ec.generate_private_key(CURVE())
            public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
            _write_folder(draft / name, certificate, {NODE_KEY: _private_pem(key, serialization.PrivateFormat.OpenSSH)})
            for path in (draft / name / "node.pub", draft / "server" / CLIENTS / f"{name}.pub"):
                path.write_bytes(public + b"\n")


def _write_folder(folder: Path, authority: bytes, private: Mapping[str, bytes]) -> None:
    """A folder with the authority's certificate and private files."""
    folder.mkdir(mode=0o700)
    (folder / AUTHORITY).write_bytes(authority)
    for name, content in private.items():
        # Created with its final permissions, so that nobody else can read it at any moment.
        with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)


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
    """A TLS server certificate for these names."""
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
    # Valid from yesterday, because the clocks of two machines may differ.
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
            f"--hosts contains {host!r}, which is neither a host name nor an IP address.",
            "Give only names and addresses, without a port, https:// or a path.",
        )
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    pem: bytes = certificate.public_bytes(serialization.Encoding.PEM)
    return pem


def _private_pem(
    key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8
) -> bytes:
    pem: bytes = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return pem
