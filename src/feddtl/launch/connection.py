"""What a connection between a client and a server needs: an address, keys, and a server that answers."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from feddtl.errors import ConfigError, DeploymentError
from feddtl.parsing import parse_toml
from feddtl.state_folder import expanded
from feddtl.storage import write_text_atomic

CONNECTION = "feddtl"  # name of the server in Flower's configuration
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
    """Name of the variable that sends Flower to a server through a proxy; empty if the connection is direct."""
    names = [name.strip().lower().lstrip(".") for name in environment.get("no_proxy", "").split(",")]
    host = address.host.lower()
    if any(name in ("*", host) or (name and host.endswith(f".{name}")) for name in names):
        return ""
    return next((name for name in PROXY_VARIABLES if environment.get(name)), "")


def unreachable(address: Address, authority: Path) -> str:
    """Why a server does not answer a direct TLS connection; empty if it answers.

    `authority` is the certificate of the authority that signed the server's certificate.

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
            "Use the keys of this server. Its certificate must name this host: `feddtl keys --hosts HOST`.",
        ) from None
    except OSError as error:
        return str(error.strerror or error)


def failed_attempts(address: Address, authority: Path, pause: float) -> Iterator[str]:
    """The reason of each failed attempt to reach a server, `pause` seconds apart; ends when the server answers.

    Raises what `unreachable` raises.
    """
    while reason := unreachable(address, authority):
        yield reason
        time.sleep(pause)


def write_connection(home: Path, address: Address, authority: Path) -> None:
    """Write a server's address and the certificate of its authority into a home folder of Flower."""
    default = "[superlink]\n" + toml_text({"default": CONNECTION})
    server = toml_text({"address": str(address), "root-certificates": str(authority)})
    write_text_atomic(home / "config.toml", f"{default}[superlink.{CONNECTION}]\n{server}")


def read_connection(home: Path) -> tuple[Address, Path]:
    """What `write_connection` wrote. Raises DeploymentError if there is no file, or if it contains anything else."""
    file = home / "config.toml"
    try:
        server = parse_toml(file.read_bytes())["superlink"][CONNECTION]
        return Address.parse(server["address"]), Path(server["root-certificates"])
    except (FileNotFoundError, NotADirectoryError):
        raise DeploymentError(
            f"No `feddtl server` on this machine keeps its state in {home.parent}.",
            "Start the server on this machine first, and give both commands the same --state.",
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise DeploymentError(
            f"{file} does not name the server ({type(error).__name__}); nothing was submitted.",
            "`feddtl server` writes this file when it starts. Restart it with the same --state.",
        ) from None


def toml_text(values: Mapping[str, str | float | bool]) -> str:
    """TOML with a line for each value. The keys must be bare keys.

    A JSON string is also a TOML string, provided that non-ASCII characters are left as they are and DEL is escaped.
    """
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
    return "".join(lines).replace("\x7f", "\\u007f")


def client_name(client: int) -> str:
    """Name of a client's folder of keys, and of its public key on the server."""
    return f"client-{client}"


def server_keys(folder: Path) -> Path:
    """The server's complete folder of keys: one that `feddtl keys` wrote, or the subfolder `server` in it.

    Raises:
        ConfigError: A file is missing, or there is no public key of a client.
    """
    hint = "Set --keys to the folder that `feddtl keys` wrote, or to its subfolder server/."
    folder = _key_folder(folder, "server", (AUTHORITY, CERTIFICATE, SERVER_KEY), hint)
    if not public_keys(folder):
        raise ConfigError(
            f"{folder / CLIENTS} contains no public key of a client, so no client could connect.",
            "Put the clients' .pub files there, or write new keys with `feddtl keys`.",
        )
    return folder


def public_keys(folder: Path) -> list[Path]:
    """The clients' public keys in the server's folder, sorted by name."""
    return sorted((folder / CLIENTS).glob("*.pub"))


def client_keys(folder: Path, client: int) -> Path:
    """A client's complete folder of keys: the folder itself, or the client's subfolder in what `feddtl keys` wrote.

    Raises:
        ConfigError: A file is missing, or the folder's name is that of another client.
    """
    expected, name = client_name(client), expanded(folder).absolute().name
    if CLIENT_FOLDER.fullmatch(name) and name != expected:
        raise ConfigError(
            f"--keys {folder} contains the keys of {name}, but --id is {client}; nothing was started.",
            f"Set --keys to {expected}/, or --id to the number in the folder's name.",
        )
    hint = f"Set --keys to the folder {expected}/ that `feddtl keys` wrote."
    return _key_folder(folder, expected, (AUTHORITY, NODE_KEY), hint)


def _key_folder(folder: Path, name: str, files: tuple[str, ...], hint: str) -> Path:
    """A folder, or its subfolder with this name if there is one, as an absolute path. Raises ConfigError."""
    folder = expanded(folder).absolute()
    if (folder / name).is_dir():
        folder = folder / name
    for file in files:
        if not (folder / file).is_file():
            raise ConfigError(f"There is no {folder / file}.", hint)
    return folder
