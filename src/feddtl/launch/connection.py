"""What a connection between a client and a server needs: an address, the folders of keys, and a server that answers."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from feddtl.errors import ConfigError, DeploymentError

SECONDS_TO_ANSWER = 10.0
PROXY_VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")  # Flower uses the first that is set
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PORTS = range(1, 65536)
HOST_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.I)
AUTHORITY, CERTIFICATE, SERVER_KEY, NODE_KEY, CLIENTS = "ca.crt", "server.crt", "server.key", "node.key", "clients"
CLIENT_FOLDER = re.compile(r"client-\d+")


@dataclass(frozen=True)
class Address:
    """Where a server listens: a host name or IP address, and a port from 1 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @staticmethod
    def parse(text: str) -> Address:
        """Read HOST:PORT or [IPv6]:PORT. Raises ConfigError for anything else."""
        host, colon, port = text.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        bracketed = host != bare
        is_port = re.fullmatch(r"[0-9]{1,5}", port) is not None and int(port) in PORTS
        if not colon or not is_port or not is_host(bare) or (":" in bare) != bracketed:
            raise ConfigError(
                f"--server is {text!r}, which is not HOST:PORT.", "For example: --server federation.example.org:9092."
            )
        return Address(bare, int(port))


def is_host(text: str) -> bool:
    """Whether a text is an IP address or a well-formed host name. The name is not looked up."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return HOST_NAME.fullmatch(text) is not None and not re.fullmatch(r"[\d.]+", text)
    return True


def proxy_variable(address: Address, environment: Mapping[str, str]) -> str:
    """Name of the variable that sends Flower to a server through a proxy; empty where the connection is direct.

    Args:
        address: Address of the server.
        environment: Environment of Flower's process.
    """
    names = [name.strip().lower().lstrip(".") for name in environment.get("no_proxy", "").split(",")]
    host = address.host.lower()
    if any(name in ("*", host) or (name and host.endswith(f".{name}")) for name in names):
        return ""
    return next((name for name in PROXY_VARIABLES if environment.get(name)), "")


def unreachable(address: Address, authority: Path) -> str:
    """Why a server does not answer a direct TLS connection; empty if it answers.

    Args:
        address: Address of the server.
        authority: Certificate of the authority that signed the server's certificate.

    Raises:
        DeploymentError: Something answers, but its certificate is not valid for this address and authority.
        ConfigError: The authority's certificate cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=str(authority))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"Cannot read the certificate {authority}: {error}.", "Copy ca.crt again.") from None
    try:
        with (
            socket.create_connection((address.host, address.port), timeout=SECONDS_TO_ANSWER) as raw,
            context.wrap_socket(raw, server_hostname=address.host),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        raise DeploymentError(
            f"The certificate of the server at {address} is not valid under {authority}: {error.verify_message}.",
            "Use the keys of this server. Its certificate must name this host: feddtl keys --hosts HOST.",
        ) from None
    except OSError as error:
        return str(error.strerror or error)


def failed_attempts(address: Address, authority: Path, pause: float) -> Iterator[str]:
    """The reason of each failed attempt to reach a server; ends when the server answers.

    Args:
        address: Address of the server.
        authority: See `unreachable`, which also says what is raised.
        pause: Seconds between two attempts.
    """
    while reason := unreachable(address, authority):
        yield reason
        time.sleep(pause)


@dataclass(frozen=True)
class ServerKeys:
    """The files that a server needs, as absolute paths.

    Attributes:
        authority: Certificate of the authority.
        certificate: The server's certificate.
        key: The server's private key.
        clients: Public keys of the clients, sorted by name.
    """

    authority: Path
    certificate: Path
    key: Path
    clients: tuple[Path, ...]


@dataclass(frozen=True)
class ClientKeys:
    """The authority's certificate and the client's private key, as absolute paths."""

    authority: Path
    key: Path


def client_name(client: int) -> str:
    """Name of a client's folder of keys, and of its public key on the server."""
    return f"client-{client}"


def server_keys(folder: Path) -> ServerKeys:
    """The server's keys in the folder that `feddtl keys` wrote, or in its subfolder `server`.

    Raises:
        ConfigError: A file is missing, or there is no public key of a client.
    """
    folder = _subfolder(folder, "server")
    clients = tuple(sorted((folder / CLIENTS).glob("*.pub")))
    keys = ServerKeys(folder / AUTHORITY, folder / CERTIFICATE, folder / SERVER_KEY, clients)
    for path in (keys.authority, keys.certificate, keys.key):
        _require_file(path, "Set --keys to the folder that `feddtl keys` wrote, or to its subfolder server/.")
    if not clients:
        raise ConfigError(
            f"{folder / CLIENTS} holds no public key of a client, so no client could connect.",
            "Put the clients' .pub files there, or write new keys with `feddtl keys`.",
        )
    return keys


def client_keys(folder: Path, client: int) -> ClientKeys:
    """A client's keys in its own folder, or in the folder that `feddtl keys` wrote.

    Raises:
        ConfigError: A file is missing, or the folder's name is that of another client.
    """
    name = folder.expanduser().absolute().name
    if CLIENT_FOLDER.fullmatch(name) and name != client_name(client):
        raise ConfigError(
            f"--keys {folder} holds the keys of {name}, but --id is {client}; nothing was started.",
            f"Set --keys to {client_name(client)}/, or --id to the number in the folder's name.",
        )
    folder = _subfolder(folder, client_name(client))
    keys = ClientKeys(folder / AUTHORITY, folder / NODE_KEY)
    for path in (keys.authority, keys.key):
        _require_file(path, f"Set --keys to the folder {client_name(client)}/ that `feddtl keys` wrote.")
    return keys


def _subfolder(folder: Path, name: str) -> Path:
    """The subfolder with this name if there is one, or else the folder itself, as an absolute path."""
    folder = folder.expanduser().absolute()
    return folder / name if (folder / name).is_dir() else folder


def _require_file(path: Path, hint: str) -> None:
    if not path.is_file():
        raise ConfigError(f"There is no {path}.", hint)
