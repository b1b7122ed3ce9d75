"""A client, as `flwr run` finds it here."""

from __future__ import annotations

from feddtl.flower_app.client import app

__all__ = ["app"]
