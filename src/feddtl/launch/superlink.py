"""`feddtl server`: Flower's SuperLink with the clients' keys registered."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from feddtl.errors import ConfigError, DeploymentError
from feddtl.launch.connection import PORTS, Address, is_host, unreachable
from feddtl.launch.flower_cli import FlowerCli
from feddtl.launch.flower_log import FlowerLog
from feddtl.launch.key_folders import ServerKeys
from feddtl.launch.processes import empty_folder, flower_environment, flower_program, heard
from feddtl.storage import storage_errors
from feddtl.units import counted

SECONDS_TO_START = 120.0
LOG = "What it said is above; with --verbose it says more."
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # how this machine reaches a server that listens everywhere


@dataclass(frozen=True)
class ServerPlace:
    """Where a server listens and what it keeps.

    Attributes:
        listen: Address that it listens on.
        keys: See `feddtl.launch.key_folders`.
        state: Folder for its connection, which `feddtl submit` reads, and the apps of its runs.
        verbose: Whether to show all that Flower says.
    """

    listen: Address
    keys: ServerKeys
    state: Path
    verbose: bool = False

    def __post_init__(self) -> None:
        if not is_host(self.listen.host):
            raise ConfigError(
                f"--host is {self.listen.host!r}, which is neither a host name nor an IP address.",
                "Give an address of this machine alone, without a port; 0.0.0.0 for all of them.",
            )
        if self.listen.port not in PORTS:
            raise ConfigError(f"--port is {self.listen.port}.", f"A port is from {PORTS[0]} to {PORTS[-1]}.")

    @property
    def local(self) -> Address:
        """Address by which this machine reaches it."""
        return Address(EVERYWHERE.get(self.listen.host, self.listen.host), self.listen.port)


def serve_forever(place: ServerPlace, note: Callable[[str], None]) -> None:
    """Run a SuperLink until this process is told to end.

    Args:
        place: Where it listens and what it keeps.
        note: Told of what the user should know.

    Raises:
        DeploymentError: It cannot start, or ended by itself.
        RunError: The folder for its state cannot be written.
    """
    _require_free(place.listen)
    if not _is_loopback(place.listen.host):
        note(
            f"Whoever reaches {place.listen} can submit runs, which run code of his choice on this machine and on "
            "every client's; the clients' keys do not protect against it. Let only a private network reach it, or "
            "listen on 127.0.0.1 behind a proxy: see docs/explanation/security.md."
        )
    home = place.state / "flower"
    with storage_errors(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    cli = FlowerCli(home, empty_folder(place.state / "empty"))
    cli.connect_to(place.local, place.keys.authority)
    log = FlowerLog(verbose=place.verbose)
    with heard(_command(place), flower_environment(home), cli.folder, log.hear) as superlink:
        _wait_until_it_answers(superlink, place)
        for public in place.keys.clients:
            cli.register(public)
        note(f"The server listens on {place.listen} for {counted(len(place.keys.clients), 'client')}; Ctrl-C stops it.")
        raise _ended(superlink.wait())


def _command(place: ServerPlace) -> list[str]:
    return [
        flower_program("flower-superlink"),
        *("--host", place.listen.host, "--port", str(place.listen.port)),
        *("--ssl-ca-certfile", str(place.keys.authority)),
        *("--ssl-certfile", str(place.keys.certificate), "--ssl-keyfile", str(place.keys.key)),
        # No --database: under load its SQLite file is locked for SuperLink's own processes, and they end. Nothing is
        # lost without it: keys are registered at each start, and where a run stands is in its own folder.
        *("--isolation", "subprocess"),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
    ]


def _wait_until_it_answers(superlink: subprocess.Popen[str], place: ServerPlace) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while unreachable(place.local, place.keys.authority):
        if (code := superlink.poll()) is not None:
            raise _ended(code)
        if time.monotonic() > deadline:
            raise DeploymentError(
                f"SuperLink does not answer at {place.local} after {SECONDS_TO_START:g} seconds.", LOG
            )
        time.sleep(0.2)


def _require_free(listen: Address) -> None:
    """Raise for an address that this machine does not have, or that another process listens on."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host, listen.port))
        except OSError as error:
            raise ConfigError(
                f"Cannot listen on {listen}: {error.strerror}.",
                "Give an address of this machine and a port that no other process has: --host, --port.",
            ) from None


def _is_loopback(host: str) -> bool:
    """Whether this machine alone reaches a host, given as a name or an address."""
    found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    return all(ipaddress.ip_address(address).is_loopback for address in found)


def _ended(code: int) -> DeploymentError:
    return DeploymentError(f"SuperLink ended by itself with exit code {code}.", LOG)
