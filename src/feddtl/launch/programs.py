"""`feddtl server` and `feddtl client`: Flower's SuperLink and SuperNode, run until the command is stopped."""

from __future__ import annotations

import ipaddress
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from feddtl.data.image_files import contains_images
from feddtl.errors import ConfigError, DeploymentError, FeddtlError
from feddtl.launch.connection import (
    AUTHORITY,
    CERTIFICATE,
    CLIENTS,
    NODE_KEY,
    PORTS,
    SERVER_KEY,
    Address,
    client_name,
    failed_attempts,
    is_host,
    proxy_variable,
    public_keys,
    toml_text,
    unreachable,
    write_connection,
)
from feddtl.launch.processes import FlowerCli, flower_environment, flower_program, free_port, running_with_lines
from feddtl.line_breaks import fitted
from feddtl.marked_lines import say, unmarked
from feddtl.methods.catalog import with_absolute_file
from feddtl.state_folder import STATE
from feddtl.storage import storage_errors, write_text_atomic
from feddtl.units import counted

SECONDS_TO_START, SECONDS_BETWEEN_CHECKS = 120.0, 0.2
SECONDS_BETWEEN_ATTEMPTS = 10.0
SECONDS_BETWEEN_LOOKS = 30.0  # for the server, while a client is connected
SEE_LOG = "See Flower's error above; --verbose shows its whole log."
OWN_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # by which this machine reaches a server that listens everywhere
# Code of Flower's error, from flwr.supercore.error.ApiErrorCode.
ACTIVATION_FAILED = "[code: 2004]"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# A line of Python's logging begins with its level; Flower's HTTP server puts the time before it.
LEVEL = re.compile(r"(?:\S+Z )?(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
# What Flower reports, as errors, of a client that was still training when its run was stopped, and of the run's server.
LATE = re.compile(
    r"exception: Run is finished\.|NoObjectInStoreError|\[/v1/runtime/[\w-]+\]\[ApiError:1008\] Runtime task-token"
)
AFTER_LATE = re.compile(r"Failed to push reply message|Exit Code: 250")
DROPPED = "A message came after its run had ended, and was dropped."
TRACEBACK = re.compile(r"Traceback \(most recent call last\):|Exception in thread ")
CONTROL_IS_OPEN = (
    "Anyone who can reach {address} can submit runs, which execute any code on this machine and on every client's. "
    "The clients' keys do not prevent that. Let only a private network reach this address, or listen on 127.0.0.1 "
    "behind a proxy: see docs/explanation/security.md."
)
REFUSED = (
    "The server refuses this client. After a client was killed or lost power, the server considers it connected for "
    "about a minute. Otherwise another client is connected with this key, or the server does not know the key; its log "
    "gives the reason."
)


def serve_forever(listen: Address, keys: Path, state: Path, *, verbose: bool = False) -> None:
    """Run a SuperLink until this process receives a signal to end.

    Args:
        listen: Address to listen on.
        keys: Folder from `server_keys`.
        state: Folder for the connection, which `feddtl submit` reads, and for the apps of the runs.
        verbose: Show Flower's whole log.

    Raises:
        ConfigError: This machine cannot listen on the address, or a client's key cannot be used.
        DeploymentError: SuperLink cannot start, or ended by itself.
        RunError: The state folder cannot be written.
    """
    _require_free(listen)
    if not _is_loopback(listen.host):
        say(CONTROL_IS_OPEN.format(address=listen))
    cli = FlowerCli(_private_folder(state / "flower"), _empty_folder(state / "empty"))
    from feddtl.launch.keys import require_public_keys  # needs cryptography, which comes with Flower

    require_public_keys(public_keys(keys))
    address = Address(OWN_ADDRESS.get(listen.host, listen.host), listen.port)
    write_connection(cli.home, address, keys / AUTHORITY)
    output = OutputFilter(verbose=verbose)
    environment = flower_environment(cli.home)
    with running_with_lines(_superlink(listen, keys), environment, cli.folder, output.show) as superlink:
        _wait_until_it_answers(superlink, address, keys / AUTHORITY)
        say(f"The server listens on {listen} for {counted(len(public_keys(keys)), 'client')}; Ctrl-C stops it.")
        raise _ended(superlink.wait())


def take_part_forever(
    client: int,
    server: Address,
    keys: Path,
    state: Path,
    data: Path | None,
    model: Path | None,
    *,
    method: str = "",
    verbose: bool = False,
) -> None:
    """Keep a SuperNode running until this process receives a signal to end; wait while the server cannot be reached.

    Args:
        client: Id from 0.
        server: Address of the server.
        keys: Folder from `client_keys`.
        state: Folder of the client's state.
        data: The client's images, or its copy of the data set; None: as in the experiment.
        model: The client's copy of the CLIP; None: as in the experiment.
        method: FILE.py:Class of a method that is not part of feddtl and may run here; empty: none.
        verbose: Show Flower's whole log.

    Raises:
        ConfigError: The id is negative, or a path does not exist, cannot be read or contains no images.
        DeploymentError: Something other than the server answers at its address.
        RunError: The state folder cannot be written.
    """
    _check_client(client, data, model)
    home = _private_folder(state / "nodes" / client_name(client))
    paths = {key: str(path.absolute()) for key, path in (("data", data), ("model", model)) if path is not None}
    if method:
        paths["method"] = with_absolute_file(method)
    write_text_atomic(home / "node.toml", toml_text({"partition-id": client, **paths}))
    folder = _empty_folder(home / "empty")
    environment = {**flower_environment(home), STATE: str(state)}
    if proxy := proxy_variable(server, environment):  # only the variable's name: its value may contain a password
        say(f"{proxy} is set, so {server} is reached through that proxy. To connect directly, set no_proxy=HOST.")
    try:
        while True:
            if not proxy:
                _wait_for_server(server, keys / AUTHORITY)
            say(f"Client {client} connects to {server}; Ctrl-C stops it.")
            watch = None if proxy else ServerWatch(server, keys / AUTHORITY)
            command = _supernode(server, keys, home / "node.toml")
            end = _run_supernode(command, environment, folder, watch, verbose=verbose)
            say(f"{end} Trying again in {SECONDS_BETWEEN_ATTEMPTS:g} seconds.")
            time.sleep(SECONDS_BETWEEN_ATTEMPTS)
    except (KeyboardInterrupt, SystemExit):
        say(f"Client {client} was told to stop, and has disconnected.")
        raise


class ServerWatch:
    """Says once that a server no longer answers, and once that it answers again.

    Args:
        server: Its address.
        authority: The certificate of the authority that signed its own.
    """

    def __init__(self, server: Address, authority: Path) -> None:
        self._server, self._authority, self._lost = server, authority, False

    def look(self) -> None:
        """Try to reach the server."""
        try:
            reason = unreachable(self._server, self._authority)
        except FeddtlError as error:
            reason = error.message
        if reason and not self._lost:
            say(f"The server at {self._server} no longer answers: {reason}. Its run may have ended. Waiting for it.")
        if self._lost and not reason:
            say(f"The server at {self._server} answers again.")
        self._lost = bool(reason)


class OutputFilter:
    """Shows, on standard error, the lines of a Flower process that concern its user.

    These are feddtl's own lines, and Flower's warnings and errors with the lines that follow them, except tracebacks.
    Messages of a run that has ended are no error: one line stands for all that Flower says of them.
    """

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._continued = False  # whether a line without a level belongs to a line that was shown
        self._late = False  # whether the last line with a level was of a message of a run that has ended

    def show(self, line: str) -> None:
        """Show a line, which ends with a line break, or leave it out."""
        plain = COLOUR.sub("", line)
        own = unmarked(plain) is not None
        if level := LEVEL.match(plain):
            late = LATE.search(plain) or (self._late and AFTER_LATE.search(plain))
            if late and not self._late:
                say(DROPPED)
            self._late = bool(late)
            self._continued = level[1] not in ("DEBUG", "INFO") and not late
        elif own or TRACEBACK.match(plain):
            self._continued = False
        if self._verbose or own or self._continued:
            sys.stderr.write(fitted(line, sys.stderr))
            sys.stderr.flush()


def _run_supernode(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, watch: ServerWatch | None, *, verbose: bool
) -> str:
    """Run a SuperNode until it ends, and look for its server in the meantime; the reason why it ended."""
    output, refused = OutputFilter(verbose=verbose), False

    def on_line(line: str) -> None:
        nonlocal refused
        refused |= ACTIVATION_FAILED in line
        output.show(line)

    with running_with_lines(command, environment, folder, on_line) as supernode:
        while True:
            try:
                code = supernode.wait(SECONDS_BETWEEN_LOOKS)
                break
            except subprocess.TimeoutExpired:
                if watch is not None:
                    watch.look()
    return REFUSED if refused else f"SuperNode ended with exit code {code}."


def _wait_for_server(server: Address, authority: Path) -> None:
    shown = ""
    for reason in failed_attempts(server, authority, SECONDS_BETWEEN_ATTEMPTS):
        if reason != shown:
            say(f"The server at {server} cannot be reached: {reason}. Waiting for it.")
            shown = reason


def _wait_until_it_answers(superlink: subprocess.Popen[str], address: Address, authority: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    for _ in failed_attempts(address, authority, SECONDS_BETWEEN_CHECKS):
        if (code := superlink.poll()) is not None:
            raise _ended(code)
        if time.monotonic() > deadline:
            raise DeploymentError(
                f"SuperLink does not answer at {address} after {SECONDS_TO_START:g} seconds.", SEE_LOG
            )


def _ended(code: int) -> DeploymentError:
    return DeploymentError(f"SuperLink ended unexpectedly with exit code {code}.", SEE_LOG)


def _superlink(listen: Address, keys: Path) -> list[str]:
    """The command that starts SuperLink, which knows the clients' keys before it answers."""
    return [
        *(sys.executable, "-m", "feddtl.runtimes.flower.superlink", str(keys / CLIENTS)),
        *("--host", listen.host, "--port", str(listen.port), "--ssl-ca-certfile", str(keys / AUTHORITY)),
        *("--ssl-certfile", str(keys / CERTIFICATE), "--ssl-keyfile", str(keys / SERVER_KEY)),
        # No --database: under load SuperLink's own processes find its SQLite file locked, and end. Nothing is lost
        # without it: keys are read at each start, and a run's progress is in its own folder.
        *("--isolation", "subprocess"),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
    ]


def _supernode(server: Address, keys: Path, node_config: Path) -> list[str]:
    """The command that starts a SuperNode, on a port that is free now."""
    return [
        flower_program("flower-supernode"),
        *("--superlink", str(server), "--root-certificates", str(keys / AUTHORITY)),
        *("--auth-supernode-private-key", str(keys / NODE_KEY), "--node-config", str(node_config)),
        *("--isolation", "subprocess", "--host", "127.0.0.1", "--port", str(free_port())),
    ]


def _private_folder(path: Path) -> Path:
    """The folder, which is created for its owner alone. Raises RunError."""
    with storage_errors(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _empty_folder(path: Path) -> Path:
    """A working directory in which Python cannot find a module by accident. Raises RunError and DeploymentError."""
    with storage_errors(path):
        if any(_private_folder(path).iterdir()):
            raise DeploymentError(
                f"{path}, the working directory of Flower's processes, is not empty; nothing was changed.",
                "Move its files elsewhere.",
            )
    return path


def _check_client(client: int, data: Path | None, model: Path | None) -> None:
    if client < 0:
        raise ConfigError(f"--id is {client}.", "Set --id to 0 or more.")
    for flag, path in (("--data", data), ("--model", model)):
        if path is not None and not path.exists():
            raise ConfigError(f"{flag} {path} does not exist; nothing was started.", "Check the path.")
    try:
        found = data is None or contains_images(data)
    except OSError as error:
        raise ConfigError(
            f"--data {data} cannot be read: {error.strerror}, {error.filename}; nothing was started.",
            "Give the account that runs this client permission to read it.",
        ) from None
    if not found:
        raise ConfigError(
            f"--data {data} contains no image and no parquet file; nothing was started.",
            "Put the images into one folder per class: DATA/CLASS/*.jpg.",
        )


def _require_free(listen: Address) -> None:
    """Raise ConfigError for an address that is malformed, of another machine, or used by another process."""
    if not is_host(listen.host):
        raise ConfigError(
            f"--host is {listen.host!r}, which is neither a host name nor an IP address.",
            "Give an address of this machine without a port, or 0.0.0.0 for all its addresses.",
        )
    if listen.port not in PORTS:
        raise ConfigError(f"--port is {listen.port}.", f"Set --port to {PORTS[0]} to {PORTS[-1]}.")
    with socket.socket(socket.AF_INET6 if ":" in listen.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host, listen.port))
        except OSError as error:
            raise ConfigError(
                f"Cannot listen on {listen}: {error.strerror}.",
                "Set --host to an address of this machine, and --port to a port that no other process uses.",
            ) from None


def _is_loopback(host: str) -> bool:
    """Whether a host name or address belongs to the loopback interface alone."""
    found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    return all(ipaddress.ip_address(address).is_loopback for address in found)
