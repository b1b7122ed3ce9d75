"""The server's app, which `flwr run` loads."""

from __future__ import annotations

from feddtl.flower_app.server import app

__all__ = ["app"]
