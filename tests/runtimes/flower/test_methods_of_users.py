"""A method of the user's own over Flower: a client runs only what whoever runs it gave it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

pytest.importorskip("flwr", reason="needs the extra [flower]: make test-flower")

from feddtl import deployment
from feddtl.config import Experiment
from feddtl.errors import FeddtlError
from feddtl.runtimes.wire.contract import Contract, RejectedMessageError

OWN = """
from feddtl.methods.base import Method

class Mine(Method):
    def initial_shared(self):
        return {}
"""


def test_a_client_runs_no_code_that_a_server_names(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    own = f"{tmp_path / 'mine.py'}:Mine"
    text = json.dumps({"method": own})
    with pytest.raises(FeddtlError, match="this client was started without --method"):
        deployment.read_experiment(text)
    with pytest.raises(FeddtlError, match=r"was started with --method other\.py:Other"):
        deployment.read_experiment(text, "other.py:Other")
    assert deployment.read_experiment(json.dumps({"method": "/elsewhere/mine.py:Mine"}), own).method == own


def test_another_version_of_the_file_is_another_contract(federation, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "newer.py").write_text(OWN + "# changed\n")
    ours, theirs = (
        Contract.of(federation.task, Experiment(method=f"{tmp_path / name}:Mine")) for name in ("mine.py", "newer.py")
    )
    ours.require(replace(theirs, method=ours.method).scalars())
    with pytest.raises(RejectedMessageError, match="the other side has another file of the method"):
        ours.require(theirs.scalars())
