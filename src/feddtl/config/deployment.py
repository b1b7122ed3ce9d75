"""Clients on other machines: when a round goes on without one, and what its update may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from feddtl.checks import check_fields, require


@dataclass(frozen=True)
class DeploymentConfig:
    """A run over Flower; a run in one process has no use for it."""

    min_clients: int = 1
    """Usable updates that a round needs; with fewer the run stops after its last checkpoint (ours)."""
    round_timeout: float = 600.0
    """Seconds that the server waits for clients to connect, and then for the updates of a round (ours)."""
    precision: Literal["float32", "float16"] = "float32"
    """Precision of broadcasts over Flower; float16 halves them and rounds. Updates: `uplink.transforms`."""

    def __post_init__(self) -> None:
        check_fields("deployment", self)
        require(self.min_clients >= 1, "deployment.min_clients", self.min_clients, "1 or more")
        require(self.round_timeout > 0, "deployment.round_timeout", self.round_timeout, "a number above 0")
