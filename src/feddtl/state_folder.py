"""The user's folders: for state that outlives a process, for the cache, and what happens where there is no home folder.

A process may have none: `docker run --user 12345` gives it a user id that the system does not know, and no HOME.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from feddtl.errors import ConfigError

AnyPath: TypeAlias = str | os.PathLike[str]

STATE = "FEDDTL_STATE"
CACHE = "FEDDTL_CACHE"  # folder of activations, which may be deleted at any time
HUB_CACHE = "HF_HOME"
NO_HOME = "This user has no home folder"


def expanded(path: AnyPath) -> Path:
    """The path with a home folder in place of `~`. Raises ConfigError if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"The home folder of {path} is unknown.", "Write the whole path, or set HOME.") from None


def has_home() -> bool:
    """Whether the system knows a home folder of this user."""
    try:
        Path.home()
    except RuntimeError:
        return False
    return True


def state_root(folder: Path | None = None) -> Path:
    """Absolute path of this folder, or of FEDDTL_STATE, or of feddtl in the user's folder for state.

    Raises:
        ConfigError: None is named, and there is no home folder.
    """
    named, home = folder or os.environ.get(STATE), os.environ.get("XDG_STATE_HOME")
    if not (named or home or has_home()):
        raise ConfigError(f"{NO_HOME}, so there is no folder for state.", f"Name one with --state or {STATE}.")
    return expanded(named or f"{home or '~/.local/state'}/feddtl").absolute()


def require_hub_cache() -> None:
    """Raise ConfigError if the libraries of the Hub have no folder for what they download and convert."""
    # They would create a folder called '~' in the working directory.
    if not (os.environ.get(HUB_CACHE) or os.environ.get("XDG_CACHE_HOME") or has_home()):
        raise ConfigError(f"{NO_HOME}, so there is no folder for downloads.", f"Name one with {HUB_CACHE}.")
