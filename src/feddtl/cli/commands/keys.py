"""`feddtl keys`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from feddtl.cli.command import Command


@dataclass(frozen=True)
class Keys(Command):
    """Write keys for a server and its clients: an authority, the server's certificate, a key for each client.

    One folder for each party; see docs/how-to/run-over-flower.md.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """New folder, readable for you alone; nothing in it is ever replaced."""
    hosts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="HOST [HOST ...]")] = ("localhost",)
    """Names and IP addresses by which clients reach the server; those of its own loopback interface always hold."""
    clients: Annotated[int, tyro.conf.arg(metavar="K")] = 1
    """How many clients there are."""
    days: int = 730
    """How long the certificates are valid."""

    def execute(self) -> int:
        """Write keys and say who gets which folder."""
        from feddtl.launch.connection import client_name
        from feddtl.launch.processes import require_flower

        require_flower()
        from feddtl.launch.keys import write_keys

        write_keys(self.folder, self.hosts, self.clients, self.days)
        print(f"{self.folder}/ca          stays with you: it signs certificates of servers")
        print(f"{self.folder}/server      to the server: feddtl server --keys server")
        for client in range(self.clients):
            name = client_name(client)
            print(f"{self.folder}/{name:<11} to client {client}: feddtl client --id {client} --keys {name} …")
        return 0
