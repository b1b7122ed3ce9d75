"""A client's personal tensors between rounds, on its own disk; they are never sent.

ROOT/RUN/client-3/round-0007.safetensors has the tensors of client 3 after it trained in round 7. The server names the
last round whose update it used, so a round whose update was lost, or that a restarted server repeats, starts from the
tensors before it.
"""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from feddtl.errors import ClientError
from feddtl.models.lora import Tensors
from feddtl.storage import storage_errors, write_atomic

RUN = re.compile(r"[0-9a-f]{32}")


class PersonalState:
    """The personal tensors of one client in one run.

    Args:
        root: See `feddtl.state_folder.state_root`.
        run: Name of the run, 32 hexadecimal digits; it comes from the server, so it is checked.
        client: Id from 0.

    Raises:
        ClientError: The name of the run is invalid.
    """

    def __init__(self, root: Path, run: str, client: int) -> None:
        if not RUN.fullmatch(run):
            raise ClientError(f"The server names the run {run[:40]!r}, which is not 32 hexadecimal digits.")
        self._folder = root / run / f"client-{client}"

    def load(self, round_number: int) -> Tensors:
        """The tensors after a round; none for round 0, before which no client trained.

        Raises:
            ClientError: They are missing or damaged.
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
        """Save the tensors after a round; of earlier rounds, only those of `last_used` are kept."""
        with storage_errors(self._folder):
            # Only their owner may read what a model learned from private images.
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Copies, since the format refuses tensors that share memory.
        write_atomic(self._path(round_number), save({name: tensor.clone() for name, tensor in tensors.items()}))
        kept = {self._path(round_number), self._path(last_used)}
        for path in self._folder.glob("round-*.safetensors"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def _path(self, round_number: int) -> Path:
        return self._folder / f"round-{round_number:04d}.safetensors"
