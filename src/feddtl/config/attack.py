"""Hostile clients in an experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from feddtl.attacks.catalog import ATTACKS, NO_ATTACK
from feddtl.checks import Above, Settings, require_known
from feddtl.errors import ConfigError


@dataclass(frozen=True)
class AttackConfig(Settings, table="attack"):
    """Hostile clients, to measure a defence; in one process alone, never in a federation."""

    name: str = NO_ATTACK
    """What hostile clients do: label-flip, upload-flip, one-class, random-embeddings, sign-flip, scaling,
    inflated-count, alie or ipm; 'none': all clients are honest."""
    share: Annotated[float, Above(0, below=1)] = 0.2
    """Share of the clients that are hostile, rounded; which ones follows from the seed (ours)."""
    scale: Annotated[float | Literal["auto"], Above(0)] = "auto"
    """Strength: the factor of sign-flip, scaling and inflated-count, z of ALIE, epsilon of IPM; 'auto': the attack's
    own, 1 for sign-flip, 10 for scaling and inflated-count, 1.5 for ALIE and 2 for IPM (ours)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("attack.name", self.name, (NO_ATTACK, *ATTACKS))

    def require_off(self) -> None:
        """Raise ConfigError if there are hostile clients: a federation must never have them by its own settings."""
        if self.is_on:
            raise ConfigError(
                f"attack.name = '{self.name}' makes clients hostile, and no federation may run that.",
                "Remove attack.name, or run the experiment in one process with `feddtl run`.",
            )

    @property
    def is_on(self) -> bool:
        """Whether there are hostile clients."""
        return self.name != NO_ATTACK

    @property
    def strength(self) -> float:
        """The scale, with what 'auto' stands for; 1 for an attack without one."""
        return (ATTACKS[self.name].scale or 1.0) if self.scale == "auto" else self.scale
