"""`feddtl server`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from feddtl.cli.command import Command
from feddtl.cli.flags import FolderFlag
from feddtl.state_folder import state_root


@dataclass(frozen=True)
class Server(Command):
    """Run a server that clients connect to, until Ctrl-C or SIGTERM: Flower's SuperLink, with TLS and client keys.

    Give it runs with `feddtl submit` on the same machine.
    """

    keys: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder that `feddtl keys` wrote, or the server/ in it."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all addresses. Anyone who can reach it can also submit runs: see the docs."""
    port: int = 9092
    """Port to listen on."""
    state: FolderFlag = None
    """Folder for its connection, which `feddtl submit` reads; default: FEDDTL_STATE or ~/.local/state/feddtl."""
    verbose: bool = False
    """Show Flower's whole log, not only its warnings and errors."""

    def opening(self) -> str:
        return f"starting the server on {self.host}:{self.port} …"

    def execute(self) -> int:
        """Run the server until it is stopped."""
        from feddtl.launch.connection import Address, server_keys
        from feddtl.launch.processes import ended_by_sigterm, require_flower

        require_flower()
        from feddtl.launch.programs import serve_forever

        listen, state = Address(self.host, self.port), state_root(self.state) / "server"
        with ended_by_sigterm(code=0):
            serve_forever(listen, server_keys(self.keys), state, verbose=self.verbose)
        return 1
