"""The folder for state that outlives a process: a client's personal part, and Flower's files."""

from __future__ import annotations

import os
from pathlib import Path

STATE = "FEDDTL_STATE"
CACHE = "FEDDTL_CACHE"  # folder of activations, which may be deleted at any time


def state_root() -> Path:
    """FEDDTL_STATE, or feddtl in the user's folder for state."""
    if folder := os.environ.get(STATE):
        return Path(folder).expanduser()
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "feddtl"
