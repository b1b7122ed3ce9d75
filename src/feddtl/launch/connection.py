"""Whether a server can be reached, and is the one whose certificate the authority signed."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from feddtl.errors import ConfigError, DeploymentError

SECONDS_TO_ANSWER = 10.0
PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")  # the first that is set is used
LOOPBACK = ("localhost", "127.0.0.1", "::1")  # what this machine calls itself
PORTS = range(1, 65536)
HOST_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.I)


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Attributes:
        host: Name or IP address.
        port: From 1 to 65535.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @staticmethod
    def parse(text: str) -> Address:
        """Address of HOST:PORT or [IPv6]:PORT. Raises ConfigError for anything else."""
        host, colon, port = text.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        bracketed = host != bare
        is_port = re.fullmatch(r"[0-9]{1,5}", port) is not None and int(port) in PORTS
        if not colon or not is_port or not is_host(bare) or (":" in bare) != bracketed:
            raise ConfigError(
                f"--server is {text!r}, which is no HOST:PORT.", "For example --server federation.example.org:9092."
            )
        return Address(bare, int(port))


def is_host(text: str) -> bool:
    """Whether a text is an IP address or may be the name of a host, which is not looked up."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return HOST_NAME.fullmatch(text) is not None and not re.fullmatch(r"[\d.]+", text)
    return True


def proxy_variable(address: Address, environment: Mapping[str, str]) -> str:
    """Name of the variable whose proxy Flower goes through to a server; empty where it goes there directly.

    Args:
        address: Of the server.
        environment: Of Flower's process.
    """
    names = [name.strip().lower().lstrip(".") for name in environment.get("no_proxy", "").split(",")]
    host = address.host.lower()
    if any(name in ("*", host) or (name and host.endswith(f".{name}")) for name in names):
        return ""
    return next((name for name in PROXIES if environment.get(name)), "")


def unreachable(address: Address, authority: Path) -> str:
    """Why nothing answers at an address, asked without a proxy; empty where the right server does.

    Args:
        address: Of the server.
        authority: Certificate of the authority.

    Raises:
        DeploymentError: Something answers that is not the server that the authority knows under this name.
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
            f"The server at {address} does not show the certificate that {authority} vouches for: "
            f"{error.verify_message}",
            "Use the keys of this server; its certificate must name this host: feddtl keys --hosts HOST.",
        ) from None
    except OSError as error:
        return str(error.strerror or error)
