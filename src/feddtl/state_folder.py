"""Where this machine keeps what outlives a process: a client's personal part, and what Flower remembers."""

from __future__ import annotations

import os
from pathlib import Path

STATE = "FEDDTL_STATE"
CACHE = "FEDDTL_CACHE"  # where activations are kept, which may go at any time


def state_root() -> Path:
    """FEDDTL_STATE, or feddtl in the user's folder for state."""
    if folder := os.environ.get(STATE):
        return Path(folder).expanduser()
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "feddtl"
