"""Whether a server can be reached, and is the one whose certificate the authority signed."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from feddtl.errors import ConfigError, DeploymentError

SECONDS_TO_ANSWER = 10.0


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
        if not colon or not bare or not port.isdecimal() or not 1 <= int(port) <= 65535 or (":" in bare) != bracketed:
            raise ConfigError(
                f"--server is {text!r}, which is no HOST:PORT.", "For example --server federation.example.org:9092."
            )
        return Address(bare, int(port))


def unreachable(address: Address, authority: Path) -> str:
    """Why nothing answers at an address; empty where the right server does.

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
