"""What a client keeps on its disk."""

from __future__ import annotations

import pytest
import torch

from feddtl.errors import ClientError
from feddtl.runtimes.personal_state import PersonalState
from feddtl.state_folder import state_root

RUN = "0123456789abcdef" * 2


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"U": torch.full((2, 3), value), "V": torch.tensor([value])}


def test_the_last_round_and_the_one_that_was_used_are_kept(tmp_path):
    """Saved in rounds 1, 2 and 4; the server used 2: a repeated round 4 starts from it, and 1 is gone."""
    kept = PersonalState(tmp_path, RUN, 3)
    assert kept.load(0) == {}
    for number, used in ((1, 0), (2, 1), (4, 2)):
        kept.save(number, tensors(number), used)
    for number in (2, 4):
        assert {name: tensor.tolist() for name, tensor in kept.load(number).items()} == {
            name: tensor.tolist() for name, tensor in tensors(number).items()
        }
    with pytest.raises(ClientError, match="personal state after round 1 cannot be read"):
        kept.load(1)


def test_clients_and_runs_do_not_meet(tmp_path):
    PersonalState(tmp_path, RUN, 0).save(1, tensors(1.0), 0)
    for other in (PersonalState(tmp_path, RUN, 1), PersonalState(tmp_path, RUN[::-1], 0)):
        with pytest.raises(ClientError, match="FEDDTL_STATE"):
            other.load(1)


def test_a_damaged_file_is_named(tmp_path):
    kept = PersonalState(tmp_path, RUN, 0)
    kept.save(1, tensors(1.0), 0)
    [path] = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ClientError, match=r"round-0001\.safetensors"):
        kept.load(1)


@pytest.mark.parametrize("run", ["", "../" + RUN, RUN.upper(), RUN[1:], RUN + "\n", "a/" * 16])
def test_a_server_cannot_name_another_folder(tmp_path, run):
    with pytest.raises(ClientError, match="32 hexadecimal digits"):
        PersonalState(tmp_path, run, 0)


def test_the_folder_of_state(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDDTL_STATE", str(tmp_path))
    assert state_root() == tmp_path
    monkeypatch.delenv("FEDDTL_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert str(state_root()) == "/x/feddtl"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert str(state_root()).endswith(".local/state/feddtl")


def test_what_is_kept_is_for_its_owner_alone(tmp_path):
    PersonalState(tmp_path / "state", RUN, 0).save(1, tensors(1.0), 0)
    [path] = tmp_path.rglob("*.safetensors")
    assert path.parent.stat().st_mode & 0o777 == 0o700
