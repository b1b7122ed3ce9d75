"""`feddtl client`: Flower's SuperNode, started again and again until this process is told to end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from feddtl.data.image_files import holds_images
from feddtl.errors import ConfigError
from feddtl.launch.connection import Address, proxy_variable, unreachable
from feddtl.launch.flower_log import SuperNodeLog
from feddtl.launch.key_folders import ClientKeys, client_name
from feddtl.launch.processes import empty_folder, flower_environment, flower_program, free_port, heard
from feddtl.launch.toml_text import toml_text
from feddtl.state_folder import STATE
from feddtl.storage import storage_errors, write_text_atomic

SECONDS_BETWEEN_TRIES = 10.0
REFUSED = (
    "The server refuses client {client}. After an end without farewell, by kill -9 or a power cut, it takes the client "
    "for connected for about a minute; or another client is connected with this key, here or elsewhere; or it does not "
    "know the client's key, which its log says."
)


@dataclass(frozen=True)
class ClientPlace:
    """Who a client is, where its images are, and where the server is.

    Attributes:
        client: Id from 0.
        server: Address.
        keys: See `feddtl.launch.key_folders`.
        state: Folder for what it keeps.
        data: Its images, or its copy of the data set; None: as the experiment says.
        model: Its copy of the CLIP; None: as the experiment says.
        verbose: Whether to show all that Flower says.
    """

    client: int
    server: Address
    keys: ClientKeys
    state: Path
    data: Path | None
    model: Path | None
    verbose: bool = False

    def __post_init__(self) -> None:
        if self.client < 0:
            raise ConfigError(f"--id is {self.client}.", "Clients are counted from 0.")
        for flag, path in (("--data", self.data), ("--model", self.model)):
            if path is not None and not path.exists():
                raise ConfigError(f"{flag} {path} does not exist; nothing was started.", "Check the path.")
        if self.data is not None:
            _require_images(self.data)


def take_part_forever(place: ClientPlace, note: Callable[[str], None]) -> None:
    """Take part in the server's runs until this process is told to end.

    A server that is away is waited for; a SuperNode that ends is started again.

    Args:
        place: Who and where.
        note: Told of what the user should know.

    Raises:
        DeploymentError: Something else than the server answers at its address.
        RunError: The folder for its state cannot be written.
    """
    home = place.state / "nodes" / client_name(place.client)
    with storage_errors(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = empty_folder(home / "empty")
    node_config = home / "node.toml"
    write_text_atomic(node_config, _node_config(place))
    environment = {**flower_environment(home), STATE: str(place.state)}
    proxy = proxy_variable(place.server, environment)
    if proxy:  # by its name: its value may hold a password
        note(f"{proxy} is set, so {place.server} is reached through that proxy. If it must not be: no_proxy=HOST.")
    while True:
        if not proxy:
            _wait_for_server(place, note)
        note(f"Client {place.client} connects to {place.server}; Ctrl-C stops it.")
        log = SuperNodeLog(note, verbose=place.verbose)
        with heard(_command(place, node_config), environment, folder, log.hear) as supernode:
            code = supernode.wait()
        why = REFUSED.format(client=place.client) if log.refused else f"SuperNode ended with exit code {code}."
        note(f"{why} Trying again in {SECONDS_BETWEEN_TRIES:g} seconds.")
        time.sleep(SECONDS_BETWEEN_TRIES)


def _require_images(data: Path) -> None:
    try:
        found = holds_images(data)
    except OSError as error:
        raise ConfigError(
            f"--data {data} cannot be read: {error.strerror}, {error.filename}; nothing was started.",
            "Let the account that runs this client read it.",
        ) from None
    if not found:
        raise ConfigError(
            f"--data {data} has no image and no parquet file in it; nothing was started.",
            "Put the images into a folder for each class, DATA/CLASS/*.jpg.",
        )


def _node_config(place: ClientPlace) -> str:
    """What a node is told, as TOML."""
    values: dict[str, int | str] = {"partition-id": place.client}
    for key, path in (("data", place.data), ("model", place.model)):
        if path is not None:
            values[key] = str(path.absolute())
    return toml_text(values)


def _command(place: ClientPlace, node_config: Path) -> list[str]:
    return [
        flower_program("flower-supernode"),
        *("--superlink", str(place.server), "--root-certificates", str(place.keys.authority)),
        *("--auth-supernode-private-key", str(place.keys.key), "--node-config", str(node_config)),
        *("--isolation", "subprocess", "--host", "127.0.0.1", "--port", str(free_port())),
    ]


def _wait_for_server(place: ClientPlace, note: Callable[[str], None]) -> None:
    said = ""
    while reason := unreachable(place.server, place.keys.authority):
        if reason != said:
            note(f"The server at {place.server} cannot be reached: {reason}. Waiting for it.")
            said = reason
        time.sleep(SECONDS_BETWEEN_TRIES)
