"""The server, as `flwr run` finds it here."""

from __future__ import annotations

from feddtl.flower_app.server import app

__all__ = ["app"]
