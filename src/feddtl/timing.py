"""Seconds by phase; no second is counted twice."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch

Phase = Literal["load", "decode", "prefix", "steps", "exchange", "server", "evaluation", "other"]
"""load: model, data set and partition. decode: waiting for images to be read and resized. prefix: the frozen
blocks. steps: local training. exchange: broadcasts, checks and copies of messages. server: aggregation and
server training. evaluation: scoring. other: the rest."""

PHASES: tuple[Phase, ...] = get_args(Phase)
PHASE_TITLES: dict[Phase, str] = {
    "load": "loading",
    "decode": "reading images",
    "prefix": "frozen blocks",
    "steps": "local training",
    "exchange": "exchange",
    "server": "server",
    "evaluation": "scoring",
    "other": "other",
}


class Stopwatch:
    """Wall-clock seconds by phase; phases may be nested, and time counts for the innermost phase.

    Args:
        device: Device to synchronise at phase boundaries, so that queued work counts in the phase that queued it.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device
        self._seconds: dict[Phase, float] = {}
        self._running: list[Phase] = []
        self._since = time.perf_counter()

    @contextmanager
    def measure(self, phase: Phase) -> Iterator[None]:
        """Count the time inside this block for a phase."""
        self._settle()
        self._running.append(phase)
        try:
            yield
        finally:
            self._settle()
            self._running.pop()

    def seconds(self) -> dict[Phase, float]:
        """Seconds so far by phase, in the order of `PHASES`; 'other' is the time outside all phases."""
        self._settle()
        return {phase: self._seconds[phase] for phase in PHASES if phase in self._seconds}

    def _settle(self) -> None:
        """Add the time since the last boundary to the innermost running phase."""
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        phase = self._running[-1] if self._running else "other"
        self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._since
        self._since = now


def since(before: Mapping[Phase, float], after: Mapping[Phase, float]) -> dict[Phase, float]:
    """Seconds by phase between two readings of a stopwatch."""
    return {phase: after[phase] - before.get(phase, 0.0) for phase in after}


def add_seconds(*parts: Mapping[Any, float]) -> dict[str, float]:
    """Sum by phase of several readings, in the order of `PHASES`."""
    return {phase: sum(part.get(phase, 0.0) for part in parts) for phase in PHASES if any(phase in p for p in parts)}
