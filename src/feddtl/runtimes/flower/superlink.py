"""Flower's SuperLink, which here knows the keys of its clients before its port answers.

`python -m feddtl.runtimes.flower.superlink FOLDER …` runs `flower-superlink …` with the public keys in a folder. Flower
itself registers keys through the open port. A client that connects before its key is registered is refused.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.primitives.asymmetric import public_key_to_bytes


def register(state: LinkState, public_keys: Path) -> None:
    """Register each key of a folder, NAME.pub, as a node NAME of the one account of a SuperLink without accounts."""
    for path in sorted(public_keys.glob("*.pub")):
        key = load_ssh_public_key(path.read_bytes())
        assert isinstance(key, ec.EllipticCurvePublicKey)  # see `feddtl.launch.keys.require_public_keys`
        content = public_key_to_bytes(key)
        state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, content, HEARTBEAT_DEFAULT_INTERVAL, name=path.stem)


def main() -> None:
    """Run the SuperLink: the first word of the command line is the folder of the keys, the others are Flower's."""
    public_keys, sys.argv[1:] = Path(sys.argv[1]), sys.argv[2:]
    program = import_module("flwr.superlink.cli.flower_superlink")

    class Lifespan(program.SuperLinkLifespan):  # type: ignore[misc, name-defined]
        def startup(self) -> None:
            """Flower calls this once, before it opens the port."""
            register(self.state_factory.state(), public_keys)
            super().startup()

    program.SuperLinkLifespan = Lifespan  # type: ignore[attr-defined]
    program.flower_superlink()


if __name__ == "__main__":
    main()
