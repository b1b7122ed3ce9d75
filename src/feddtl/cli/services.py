"""What `feddtl server`, `feddtl client` and `feddtl submit` have in common."""

from __future__ import annotations

from pathlib import Path

from feddtl.state_folder import state_root

STOPPED = 0  # exit code of a service that was told to end


def state_of(folder: Path | None) -> Path:
    """Absolute path of the folder of a `--state` flag, or of its default."""
    return (folder.expanduser() if folder else state_root()).absolute()
