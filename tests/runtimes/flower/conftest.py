"""Benches for runs over Flower in memory."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def state_of_clients(tmp_path, monkeypatch):
    """Clients keep what is theirs in a folder of this test, and nothing of other tests is loaded."""
    from feddtl import deployment  # imports flwr, without which the tests of this folder are skipped

    monkeypatch.setenv("FEDDTL_STATE", str(tmp_path / "state"))
    deployment.client_side.cache_clear()
    return tmp_path / "state"
