"""What threads do while they wait for each other: it must be settled before torch starts them."""

from __future__ import annotations

import os

import pytest

from feddtl.cli import main


@pytest.mark.parametrize(
    ("own", "policy"),
    [
        ({}, "PASSIVE"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        ({"GOMP_SPINCOUNT": "10000"}, None),
        ({"KMP_BLOCKTIME": "1"}, None),
    ],
)
def test_threads_sleep_unless_the_user_chose(
    monkeypatch: pytest.MonkeyPatch, tmp_path, own: dict[str, str], policy: str | None
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        # Set first, so that what the command sets is removed after the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    assert main(["report", str(tmp_path / "none")]) == 1
    assert os.environ.get("OMP_WAIT_POLICY") == policy
