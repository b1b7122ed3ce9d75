"""What a client keeps between rounds, on its own disk: it never travels.

ROOT/RUN/client-3/round-0007.safetensors is what client 3 had after it trained in round 7. The server says which round
of the client it used last, so that a round whose update was lost, or that a restarted server begins anew, starts from
what the client had before it.
"""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from feddtl.errors import ClientError
from feddtl.models.lora import Tensors
from feddtl.state_folder import state_root as state_root
from feddtl.storage import storage_errors, write_atomic

RUN = re.compile(r"[0-9a-f]{32}")


class PersonalState:
    """What one client keeps in one run.

    Args:
        root: See `state_root`.
        run: Name of the run, 32 hexadecimal digits; it comes from the server, so it is checked.
        client: Id from 0.

    Raises:
        ClientError: The name is no name of a run.
    """

    def __init__(self, root: Path, run: str, client: int) -> None:
        if not RUN.fullmatch(run):
            raise ClientError(f"The server names the run {run[:40]!r}, which is not 32 hexadecimal digits.")
        self._folder = root / run / f"client-{client}"

    def load(self, round_number: int) -> Tensors:
        """What was kept after a round; nothing for round 0, before which nobody trained.

        Raises:
            ClientError: It is not there, or damaged.
        """
        if round_number == 0:
            return {}
        path = self._path(round_number)
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ClientError(
                f"This client's personal state after round {round_number} cannot be read from {path}: {error}.",
                "Restore the folder of FEDDTL_STATE; without it, this client can no longer participate in the run.",
            ) from None

    def save(self, round_number: int, tensors: Tensors, last_used: int) -> None:
        """Keep tensors as those after a round, and of the earlier ones those of `last_used` alone."""
        with storage_errors(self._folder):
            # What a model learnt from private images is for their owner alone.
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Copies, since the format refuses tensors that share memory.
        write_atomic(self._path(round_number), save({name: tensor.clone() for name, tensor in tensors.items()}))
        kept = {self._path(round_number), self._path(last_used)}
        for path in self._folder.glob("round-*.safetensors"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def _path(self, round_number: int) -> Path:
        return self._folder / f"round-{round_number:04d}.safetensors"
