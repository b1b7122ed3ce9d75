"""The folder for state that outlives a process: a client's personal part, and Flower's files."""

from __future__ import annotations

import os
from pathlib import Path

STATE = "FEDDTL_STATE"
CACHE = "FEDDTL_CACHE"  # folder of activations, which may be deleted at any time


def state_root(folder: Path | None = None) -> Path:
    """Absolute path of this folder, or of FEDDTL_STATE, or of feddtl in the user's folder for state."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(folder or os.environ.get(STATE) or f"{home}/feddtl").expanduser().absolute()
