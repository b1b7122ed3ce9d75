"""The client's app, which `flwr run` loads."""

from __future__ import annotations

from feddtl.flower_app.client import app

__all__ = ["app"]
