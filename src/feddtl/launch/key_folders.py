"""Where the keys of a server and of a client lie, and what is refused before anything starts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from feddtl.errors import ConfigError

AUTHORITY, CERTIFICATE, SERVER_KEY, NODE_KEY, CLIENTS = "ca.crt", "server.crt", "server.key", "node.key", "clients"
OF_A_CLIENT = re.compile(r"client-\d+")


@dataclass(frozen=True)
class ServerKeys:
    """What a server needs, as absolute paths.

    Attributes:
        authority: Certificate of the authority.
        certificate: The server's own.
        key: Its private key.
        clients: Public keys of the clients, sorted by name.
    """

    authority: Path
    certificate: Path
    key: Path
    clients: tuple[Path, ...]


@dataclass(frozen=True)
class ClientKeys:
    """What a client needs, as absolute paths.

    Attributes:
        authority: Certificate of the authority that signed the server's.
        key: The client's private key.
    """

    authority: Path
    key: Path


def client_name(client: int) -> str:
    """Name of a client's folder, and of its public key at the server."""
    return f"client-{client}"


def server_keys(folder: Path) -> ServerKeys:
    """Keys in the folder that `feddtl keys` wrote, or in its part for the server alone.

    Raises:
        ConfigError: A file is missing, or there is no client's key.
    """
    whole = folder.expanduser().absolute()
    part = whole / "server" if (whole / "server").is_dir() else whole
    keys = ServerKeys(
        part / AUTHORITY, part / CERTIFICATE, part / SERVER_KEY, tuple(sorted((part / CLIENTS).glob("*.pub")))
    )
    for path in (keys.authority, keys.certificate, keys.key):
        _require_file(path, "--keys names the folder of `feddtl keys`, or the server/ in it.")
    if not keys.clients:
        raise ConfigError(
            f"{part / CLIENTS} has no public key of a client, so nobody could connect.",
            "Put the clients' .pub files there, or write new keys with `feddtl keys`.",
        )
    return keys


def client_keys(folder: Path, client: int) -> ClientKeys:
    """Keys in the client's folder, or in the folder that `feddtl keys` wrote, whose client is named by its id.

    Raises:
        ConfigError: A file is missing, or the folder's name is that of another client.
    """
    whole = folder.expanduser().absolute()
    if OF_A_CLIENT.fullmatch(whole.name) and whole.name != client_name(client):
        raise ConfigError(
            f"--keys {folder} are those of {whole.name}, and --id is {client}; nothing was started.",
            f"Give {client_name(client)}/, or the id whose folder this is.",
        )
    part = whole / client_name(client) if (whole / client_name(client)).is_dir() else whole
    keys = ClientKeys(part / AUTHORITY, part / NODE_KEY)
    for path in (keys.authority, keys.key):
        _require_file(path, f"--keys names the {client_name(client)}/ that `feddtl keys` wrote.")
    return keys


def _require_file(path: Path, hint: str) -> None:
    if not path.is_file():
        raise ConfigError(f"There is no {path}.", hint)
