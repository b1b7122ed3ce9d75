"""Clients on other machines: quorum and timeout of a round, and limits on updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from feddtl.checks import Above, AtLeast, Settings


@dataclass(frozen=True)
class DeploymentConfig(Settings, table="deployment"):
    """A run over Flower; ignored by a run in one process."""

    min_clients: Annotated[int, AtLeast(1)] = 1
    """Minimum number of usable updates per round; with fewer, the run stops after its last checkpoint (ours)."""
    round_timeout: Annotated[float, Above(0)] = 600.0
    """Seconds that the server waits for clients to connect, and then for the updates of a round (ours)."""
    precision: Literal["float32", "float16"] = "float32"
    """Precision of broadcasts over Flower; float16 halves them and rounds. Updates: `uplink.transforms`."""
