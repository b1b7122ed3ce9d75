"""Writes the keys of a federation: a certificate authority, the server's certificate, and a key for each client.

ca/        ca.key ca.crt: signs the server's certificate; needed nowhere else
server/    server.crt server.key ca.crt clients/client-0.pub …
client-0/  node.key node.pub ca.crt
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_public_key,
)
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
NIST_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
WRITTEN_BY = "Use a client's .pub file that `feddtl keys` wrote."
MAX_DAYS = 36500  # a certificate cannot contain a date after the year 9999
KEY_USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


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
    signer, key = ec.generate_private_key(CURVE()), ec.generate_private_key(CURVE())
    authority = _authority_certificate(signer, days)
    with new_folder(folder, mode=0o700) as draft:
        _write_folder(draft / "ca", authority, "ca.key", signer, PrivateFormat.PKCS8)
        _write_folder(draft / "server", authority, SERVER_KEY, key, PrivateFormat.PKCS8)
        (draft / "server" / CERTIFICATE).write_bytes(_server_certificate(key, signer, names, days))
        (draft / "server" / CLIENTS).mkdir(mode=0o700)
        for name in map(client_name, range(clients)):
            key = ec.generate_private_key(CURVE())
            _write_folder(draft / name, authority, NODE_KEY, key, PrivateFormat.OpenSSH)
            public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
            for path in (draft / name / "node.pub", draft / "server" / CLIENTS / f"{name}.pub"):
                path.write_bytes(public + b"\n")


def require_public_keys(paths: Sequence[Path]) -> None:
    """Raise ConfigError unless each file has the public key of a client, and no two have the same."""
    found: dict[bytes, Path] = {}
    for path in paths:
        try:
            key = load_ssh_public_key(path.read_bytes())
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"Cannot read the public key {path}: {error}.", WRITTEN_BY) from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, NIST_CURVES):
            raise ConfigError(f"The public key {path} is not of a NIST curve.", WRITTEN_BY)
        content = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if content in found:
            raise ConfigError(
                f"{found[content]} and {path} are the same key, so only one of the two clients could connect.",
                "Give each client a key of its own, and delete copies.",
            )
        found[content] = path


def _write_folder(
    folder: Path, authority: bytes, name: str, key: ec.EllipticCurvePrivateKey, form: PrivateFormat
) -> None:
    """A new folder with the authority's certificate and a private key."""
    folder.mkdir(mode=0o700)
    (folder / AUTHORITY).write_bytes(authority)
    # Created with its final permissions, so that nobody else can read it at any moment.
    with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, form, NoEncryption()))


def _authority_certificate(key: ec.EllipticCurvePrivateKey, days: int) -> bytes:
    usage = _key_usage("key_cert_sign", "crl_sign")
    extensions = [x509.BasicConstraints(ca=True, path_length=0), usage]
    return _certificate("feddtl certificate authority", key.public_key(), key, days, extensions)


def _server_certificate(
    key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey, names: Sequence[x509.GeneralName], days: int
) -> bytes:
    extensions = [
        x509.SubjectAlternativeName(names),
        x509.BasicConstraints(ca=False, path_length=None),
        _key_usage("digital_signature"),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
    ]
    return _certificate("feddtl server", key.public_key(), signer, days, extensions)


def _certificate(
    subject: str,
    public: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    days: int,
    extensions: Sequence[x509.ExtensionType],
) -> bytes:
    """A certificate that the authority signs, as PEM."""
    begins = datetime.now(UTC) - timedelta(days=1)  # because the clocks of two machines may differ
    builder = (
        x509.CertificateBuilder()
        .subject_name(_common_name(subject))
        .issuer_name(_common_name("feddtl certificate authority"))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=days + 1))
    )
    for extension in (*extensions, x509.SubjectKeyIdentifier.from_public_key(public)):
        critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
        builder = builder.add_extension(extension, critical=critical)
    pem: bytes = builder.sign(signer, hashes.SHA384()).public_bytes(Encoding.PEM)
    return pem


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(*uses: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{use: use in uses for use in KEY_USES})


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
