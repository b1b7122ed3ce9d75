"""The commands of a federation on several machines with their flags."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from feddtl.cli.flags import UNSAID, ExperimentFile, Flags, FolderFlag, TrackFlag
from feddtl.config import Experiment


@dataclass(frozen=True)
class Keys:
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
        """Exit code."""
        from feddtl.cli.deploying import keys

        return keys(self)


@dataclass(frozen=True)
class Server:
    """Run a server that clients connect to, until Ctrl-C or SIGTERM: Flower's SuperLink, with TLS and client keys.

    Runs are given to it with `feddtl submit` on the same machine.
    """

    keys: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder that `feddtl keys` wrote, or the server/ in it."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all of this machine. Whoever reaches it can also submit runs: see the docs."""
    port: int = 9092
    """Port to listen on."""
    state: FolderFlag = None
    """Folder for its connection, which `feddtl submit` reads; default: FEDDTL_STATE or ~/.local/state/feddtl."""
    verbose: bool = False
    """Show Flower's whole log, not only its warnings and errors."""

    def execute(self) -> int:
        """Exit code."""
        from feddtl.cli.deploying import server

        return server(self)


@dataclass(frozen=True)
class Client:
    """Take part in the runs of a server, until Ctrl-C or SIGTERM: Flower's SuperNode, with TLS and its own key.

    Images stay on this machine. A server that is away is waited for.
    """

    id: Annotated[int, tyro.conf.arg(metavar="N")]
    """Which client this is, from 0."""
    server: Annotated[str, tyro.conf.arg(metavar="HOST:PORT")]
    """Where the server listens."""
    keys: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The client's folder of keys, client-N."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint=UNSAID)] = None
    """This client's images, or its copy of the data set; default: the place that the experiment names."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint=UNSAID)] = None
    """This client's copy of the CLIP; default: the place that the experiment names."""
    method: Annotated[str | None, tyro.conf.arg(metavar="FILE.py:Class", help_behavior_hint=UNSAID)] = None
    """A method of your own; its file must be the same as on the server. Default: feddtl's methods only."""
    state: FolderFlag = None
    """Folder for its personal part of methods that have one; default: FEDDTL_STATE or ~/.local/state/feddtl."""
    verbose: bool = False
    """Show Flower's whole log, not only its warnings and errors."""

    def execute(self) -> int:
        """Exit code."""
        from feddtl.cli.deploying import client

        return client(self)


@dataclass(frozen=True)
class Submit:
    """Run an experiment at the `feddtl server` of this machine, with its clients, and follow it to its end.

    Flags override the experiment file. Ctrl-C stops the run; `--resume` goes on.
    """

    experiment: ExperimentFile = None
    output: FolderFlag = None
    """New folder for the run, on the server's machine, which is this one."""
    resume: FolderFlag = None
    """Go on with the run in this folder from its last checkpoint; its settings hold."""
    state: FolderFlag = None
    """The server's --state; default: FEDDTL_STATE or ~/.local/state/feddtl."""
    json: bool = False
    """Print the summary as JSON on standard output, and nothing else there."""
    quiet: bool = False
    """No progress, only the final table."""
    track: TrackFlag = ()
    config: Flags = field(default_factory=Experiment)

    def execute(self) -> int:
        """Exit code."""
        from feddtl.cli.deploying import submit

        return submit(self)
