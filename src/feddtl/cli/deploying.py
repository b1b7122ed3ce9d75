"""`feddtl keys`, `feddtl server`, `feddtl client` and `feddtl submit`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from feddtl.cli.deployment_commands import Client, Keys, Server, Submit
from feddtl.cli.submitted_paths import with_absolute_paths
from feddtl.errors import ConfigError, RunError
from feddtl.launch.connection import Address, client_keys, client_name, server_keys
from feddtl.launch.processes import ended_by_sigterm, require_flower
from feddtl.marked_lines import say
from feddtl.run_files import holds_run, refuse_used
from feddtl.state_folder import state_root
from feddtl.storage import json_text

STOPPED = 0  # a service that is told to end, and ends
TERMINATED = 143  # 128 + SIGTERM, of a command that did not reach its end


def keys(command: Keys) -> int:
    """Write keys and say who gets which folder."""
    require_flower()
    from feddtl.launch.keys import write_keys

    write_keys(command.folder, command.hosts, command.clients, command.days)
    print(f"{command.folder}/ca          stays with you: it signs certificates of servers")
    print(f"{command.folder}/server      to the server: feddtl server --keys server")
    for client in range(command.clients):
        name = client_name(client)
        print(f"{command.folder}/{name:<11} to client {client}: feddtl client --id {client} --keys {name} …")
    return 0


def server(command: Server) -> int:
    """Run a server until it is told to end."""
    require_flower()
    from feddtl.launch.programs import serve_forever

    listen, state = Address(command.host, command.port), _state(command.state) / "server"
    with ended_by_sigterm(STOPPED):
        serve_forever(listen, server_keys(command.keys), state, note=say, verbose=command.verbose)
    return 1


def client(command: Client) -> int:
    """Take part until it is told to end."""
    require_flower()
    from feddtl.launch.programs import take_part_forever

    server, keys = Address.parse(command.server), client_keys(command.keys, command.id)
    state, files = _state(command.state), {"data": command.data, "model": command.model}
    with ended_by_sigterm(STOPPED):
        take_part_forever(
            command.id, server, keys, state, **files, method=command.method or "", note=say, verbose=command.verbose
        )
    return 1


def submit(command: Submit) -> int:
    """Run an experiment at the server, show its progress on standard error, the result on standard output."""
    require_flower()
    from feddtl.launch.submission import submit as submit_run

    if command.resume and command.output:
        raise ConfigError("--resume and --output were both given.", "--resume DIR goes on in DIR itself.")
    output = command.resume or command.output
    if output is None:
        raise ConfigError("There is no --output.", "Name a new folder on the server's machine.")
    if not command.resume:
        refuse_used(output)
    try:
        with ended_by_sigterm(TERMINATED):
            submit_run(
                _state(command.state) / "server",
                with_absolute_paths(command.config),
                output,
                resume=command.resume is not None,
                track=command.track,
                tell=lambda line: None if command.quiet or command.json else print(line, file=sys.stderr),
            )
    except KeyboardInterrupt:
        print(f"interrupted and stopped: {_what_is_left(output)}", file=sys.stderr)
        return 130
    from feddtl.cli.terminal import print_summary
    from feddtl.runs import RunFolder

    summary = RunFolder.open(output).summary
    if summary is None:
        raise RunError(f"The run is finished, but {output} has no summary.", "Is the server on another machine?")
    if command.json:
        print(json_text(summary.to_dict()), end="")
    else:
        print_summary(summary, command.config.title, output)
    return 0


def _what_is_left(output: Path) -> str:
    """Of a run that was stopped."""
    if holds_run(output):
        return f"`feddtl submit --resume {shlex.quote(str(output))}` goes on from where it stood."
    return "the run had not begun."


def _state(folder: Path | None) -> Path:
    return (folder.expanduser() if folder else state_root()).absolute()
