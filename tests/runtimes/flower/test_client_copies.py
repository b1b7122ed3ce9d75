"""A client says on its own machine which of its test images are training images too."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("flwr", reason="needs the extra [flower]: make test-flower")

from cli.small_runs import make_bench

from feddtl.client_side import ClientSide


def test_copies_are_said_with_their_number_and_files(tmp_path, capsys):
    bench = make_bench(tmp_path)
    experiment = bench.experiment()
    side = ClientSide(experiment)
    own = side._images_of(0)
    train, test = own.train.reader.files[own.train.rows[0]], own.test_base.reader.files[own.test_base.rows[0]]
    shutil.copy(train, test)
    side._tests_of(0)
    said = capsys.readouterr().err
    assert f"client 0: warning: 1 of {len(own.test_base)} test images are training images too" in said
    assert str(test) in said
