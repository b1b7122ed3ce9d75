"""`feddtl client`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from feddtl.cli.command import Command
from feddtl.cli.flags import STATED, FolderFlag
from feddtl.state_folder import state_root


@dataclass(frozen=True)
class Client(Command):
    """Take part in the runs of a server, until Ctrl-C or SIGTERM: Flower's SuperNode, with TLS and its own key.

    Images stay on this machine. While the server is down, the client waits for it.
    """

    id: Annotated[int, tyro.conf.arg(metavar="N")]
    """Number of this client, from 0."""
    server: Annotated[str, tyro.conf.arg(metavar="HOST:PORT")]
    """Address of the server."""
    keys: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The client's folder of keys, client-N."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint=STATED)] = None
    """This client's images, or its copy of the data set; default: the source in the experiment."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint=STATED)] = None
    """This client's copy of the CLIP; default: the model in the experiment."""
    method: Annotated[str | None, tyro.conf.arg(metavar="FILE.py:Class", help_behavior_hint=STATED)] = None
    """A method of your own to run here; its file must equal the server's. Default: only the methods of feddtl."""
    state: FolderFlag = None
    """Folder for the client's personal part of the model, if any; default: FEDDTL_STATE or ~/.local/state/feddtl."""
    verbose: bool = False
    """Show Flower's whole log, not only its warnings and errors."""

    def opening(self) -> str:
        return f"connecting to the server at {self.server} …"

    def execute(self) -> int:
        """Take part until it is stopped."""
        from feddtl.launch.connection import Address, client_keys
        from feddtl.launch.processes import ended_by_sigterm, require_flower

        require_flower()
        from feddtl.launch.programs import take_part_forever

        server, keys = Address.parse(self.server), client_keys(self.keys, self.id)
        state, files = state_root(self.state), {"data": self.data, "model": self.model}
        with ended_by_sigterm(code=0):
            take_part_forever(self.id, server, keys, state, **files, method=self.method or "", verbose=self.verbose)
        return 1
