"""`feddtl keys`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from feddtl.cli.command import Command
from feddtl.cli.printing import print_text


@dataclass(frozen=True)
class Keys(Command):
    """Write keys for a server and its clients: a certificate authority, the server's certificate, and client keys.

    One folder per machine; see docs/how-to/run-over-flower.md.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """New folder that only you can read; existing files are never replaced."""
    hosts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="HOST [HOST ...]")] = ("localhost",)
    """Names and IP addresses by which clients reach the server; those of its loopback interface are always included."""
    clients: Annotated[int, tyro.conf.arg(metavar="K")] = 1
    """Number of clients."""
    days: int = 730
    """Validity of the certificates in days."""

    def opening(self) -> str:
        return "writing keys …"

    def execute(self) -> int:
        """Write keys and print which folder belongs to whom."""
        from feddtl.launch.connection import client_name
        from feddtl.launch.processes import require_flower

        require_flower()
        from feddtl.launch.keys import write_keys

        write_keys(self.folder, self.hosts, self.clients, self.days)
        print_text(f"{self.folder}/ca          stays with you: it signs server certificates")
        print_text(f"{self.folder}/server      to the server: `feddtl server --keys server`")
        for client in range(self.clients):
            name = client_name(client)
            print_text(f"{self.folder}/{name:<11} to client {client}: `feddtl client --id {client} --keys {name} …`")
        return 0
