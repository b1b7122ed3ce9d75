"""The run folder: what is written when, and what is never overwritten."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from edited_runs import change
from made_records import made_record

from feddtl.config import ComputeConfig, DataConfig, Experiment
from feddtl.errors import DataError, RunError
from feddtl.evaluate import ClientHits, Predictions
from feddtl.messages import ServerState
from feddtl.models.kernels import Kernels
from feddtl.models.lora import A_SUFFIX, B_SUFFIX, Lora
from feddtl.models.peft_format import load_adapter
from feddtl.predictions import ImagePredictions
from feddtl.runs import RunFolder
from feddtl.runtimes.runtime import Progress
from feddtl.sealed_files import sealed

EXPERIMENT = Experiment(rounds=3)
CPU = torch.device("cpu")
KERNELS = Kernels(torch.bfloat16, "eager", "measured")
MODEL = {"weights": "a1", "tokenizer": "b2", "image_tower": {"num_attention_heads": 4}}
DATA = {"dataset": "photos", "prompt_template": "a {class}", "base_classes": ["ant"], "novel_classes": []}


def begun_run(path: Path, experiment: Experiment, data: dict[str, Any]) -> RunFolder:
    with RunFolder.announced(path, experiment) as announced:
        announced.begin(data, CPU, KERNELS, MODEL)
    return announced


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return begun_run(tmp_path / "run", EXPERIMENT, DATA)


def progress(number: int, **record: Any) -> Progress:
    """State after a round, with a personal tensor of client 2."""
    shared = torch.full((2, 3), float(number))
    state = ServerState(number, {"image/a": shared, "anchor/a": shared, "count": torch.tensor([number])})
    always = {"stage": "sft", "lost": [], "train": {}, "bytes_up": 1, "bytes_down": 1}
    always |= {"virtual_seconds": 0.5, "seconds": {"steps": 1.0}}
    records = tuple(made_record(done, **{**always, **record}) for done in range(1, number + 1))
    return Progress(state, {2: {"memory": torch.arange(3) * number}}, records)


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_a_new_folder_holds_what_was_asked(folder: RunFolder) -> None:
    assert names(folder.path) == ["config.json", "data.json", "environment.json", "origin.json"]
    assert folder.experiment == EXPERIMENT
    assert folder.data == DATA
    assert folder.has_begun
    assert {"python", "packages", "device"} <= set(json.loads((folder.path / "environment.json").read_text()))


def test_checkpoint_there_and_back(folder: RunFolder) -> None:
    """Tensors to the last bit, types and shapes too, although two of them share their memory."""
    saved = progress(1, base=61.7, loss=0.1 + 0.2)
    folder.save_progress(saved)
    read = folder.latest_progress()
    assert read is not None
    assert read.state.round == 1
    assert set(read.state.tensors) == set(saved.state.tensors)
    for name, tensor in saved.state.tensors.items():
        assert read.state.tensors[name].dtype == tensor.dtype
        assert torch.equal(read.state.tensors[name], tensor)
    assert torch.equal(read.personal[2]["memory"], torch.arange(3))
    assert read.records == saved.records
    assert read.own_hits is None


def test_the_clients_hits_survive_a_checkpoint(folder: RunFolder) -> None:
    hits = ClientHits(torch.tensor([1, -1]), torch.tensor([3, 0]), torch.tensor([5, 5]))
    folder.save_progress(replace(progress(1), own_hits=hits))
    read = folder.latest_progress()
    assert read is not None
    assert read.own_hits is not None
    assert [column.tolist() for column in vars(read.own_hits).values()] == [[1, -1], [3, 0], [5, 5]]


def test_two_checkpoints_are_kept_and_the_latest_is_read(folder: RunFolder) -> None:
    for number in range(1, 5):
        folder.save_progress(progress(number))
        assert len((folder.path / "metrics.jsonl").read_text().splitlines()) == number
    assert names(folder.path / "checkpoints") == ["round-0003", "round-0004"]
    latest = folder.latest_progress()
    assert latest is not None
    assert latest.state.round == 4


def test_rounds_of_five_digits(folder: RunFolder) -> None:
    """As text, round-10000 comes before round-9999; the newest must neither be removed nor overlooked."""
    for number in (9998, 9999, 10000):
        folder.save_progress(Progress(ServerState(number, {"a": torch.tensor([number])})))
    assert names(folder.path / "checkpoints") == ["round-10000", "round-9999"]
    latest = folder.latest_progress()
    assert latest is not None
    assert latest.state.round == 10000


def test_copies_beside_the_checkpoints_are_left_alone(folder: RunFolder) -> None:
    for name in ("round-0009-copy", "round-best"):
        (folder.path / "checkpoints" / name).mkdir(parents=True)
    for number in range(1, 4):
        folder.save_progress(progress(number))
    latest = folder.latest_progress()
    assert latest is not None
    assert latest.state.round == 3
    assert {"round-0009-copy", "round-best"} < set(names(folder.path / "checkpoints"))


def test_no_checkpoint_yet(folder: RunFolder) -> None:
    assert folder.latest_progress() is None


def test_what_was_not_measured_is_null_in_files_and_nan_in_memory(folder: RunFolder) -> None:
    folder.save_progress(progress(1, novel=math.nan, train={"loss": math.inf}, domains={"day": (1.0, math.nan)}))
    line = json.loads((folder.path / "metrics.jsonl").read_text())
    assert (line["novel"], line["train"]["loss"], line["domains"]["day"]) == (None, None, [1.0, None])
    read = folder.latest_progress()
    assert read is not None
    assert read.records[0].headline["novel"] is None
    folder.write_metrics(read.records)
    assert json.loads((folder.path / "metrics.jsonl").read_text()) == line


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("state.safetensors", b""),
        ("state.safetensors", b"\x00" * 300),
        ("state.safetensors", None),
        ("progress.json", b""),
        ("progress.json", b"[]"),
        ("progress.json", b'{"round": 1}'),
        ("progress.json", None),
    ],
)
def test_damaged_checkpoint(folder: RunFolder, file: str, content: bytes | None) -> None:
    folder.save_progress(progress(1))
    damaged = folder.path / "checkpoints" / "round-0001" / file
    damaged.unlink()
    if content is not None:
        damaged.write_bytes(content)
    with pytest.raises(RunError) as caught:
        folder.latest_progress()
    assert f"The checkpoint {damaged.parent} is damaged" in caught.value.message
    assert f"rm -r {shlex.quote(str(damaged.parent))}" in caught.value.hint


def test_a_checkpoint_of_an_earlier_version(folder: RunFolder) -> None:
    """Whole, with the right checksum, but its rounds lack what a run that goes on adds up."""
    folder.save_progress(progress(1))
    path = folder.path / "checkpoints" / "round-0001" / "progress.json"
    content = json.loads(path.read_text())
    for field in ("seconds", "virtual_seconds"):
        del content["records"][0][field]
    del content["sha256"]
    path.write_text(sealed(json.dumps(content)))
    with pytest.raises(RunError, match="damaged or from another version") as caught:
        folder.latest_progress()
    assert "virtual_seconds, seconds" in caught.value.message
    assert "Use that version" in caught.value.hint


@pytest.mark.parametrize("written", [None, 1, 3])
def test_a_checkpoint_with_other_names_of_tensors_is_refused(folder: RunFolder, written: int | None) -> None:
    """Tensors that nobody finds would leave the pre-trained model, with its accuracy and without a word."""
    folder.save_progress(progress(1))
    path = folder.path / "checkpoints" / "round-0001" / "progress.json"
    content = {**json.loads(path.read_text()), "format": written}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    with pytest.raises(RunError, match=f"another version of feddtl: its format is {written or 1}, not 2"):
        folder.latest_progress()


def test_a_bit_that_flipped_is_noticed(folder: RunFolder) -> None:
    folder.save_progress(progress(1))
    file = folder.path / "checkpoints" / "round-0001" / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match="does not match its checksum"):
        folder.latest_progress()


def test_adapters_are_replaced_as_a_whole(folder: RunFolder) -> None:
    factors = {f"vision_model.x{A_SUFFIX}": torch.ones(2, 3), f"vision_model.x{B_SUFFIX}": torch.ones(4, 2)}
    folder.write_adapters({"image": Lora(factors, 1.0), "text": Lora(factors, 1.0)}, "tiny-clip")
    folder.write_adapters({"image": Lora(factors, 2.0)}, "tiny-clip")
    assert names(folder.path / "adapter") == ["image"]
    assert load_adapter(folder.path / "adapter" / "image").scaling == 2.0
    folder.write_adapters({}, "tiny-clip")
    assert names(folder.path / "adapter") == ["image"]


def test_records_are_read_as_they_were_written(folder: RunFolder) -> None:
    assert folder.records == ()
    folder.write_metrics((made_record(1, base=1.0, novel=None), made_record(2)))
    first, second = folder.records
    assert (first.headline["base"], first.headline["novel"]) == (1.0, None)
    assert second == made_record(2)


def test_damaged_records(folder: RunFolder) -> None:
    (folder.path / "metrics.jsonl").write_text('{"round": 1}\n{"round": ')
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged") as caught:
        _ = folder.records
    assert "--resume" in caught.value.hint


def test_predictions_of_a_run(folder: RunFolder) -> None:
    assert folder.predictions is None
    one = torch.tensor([0])
    both = Predictions(one, one)
    folder.write_predictions(ImagePredictions(one, one, one, both, both))
    assert folder.predictions is not None
    assert folder.predictions.labels.tolist() == [0]


# --- announced, begun, used --------------------------------------------------------------------------


def fail_inside(path: Path, error: BaseException) -> None:
    with RunFolder.announced(path, EXPERIMENT):
        raise error


def test_an_announced_run_can_begin(tmp_path: Path) -> None:
    with RunFolder.announced(tmp_path / "deep" / "run", EXPERIMENT) as announced:
        assert names(announced.path) == ["config.json"]
        assert not announced.has_begun
        announced.begin(DATA, CPU, KERNELS, MODEL)
    assert announced.has_begun


def test_an_announced_run_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("new", "mine"):
        with pytest.raises(DataError):
            fail_inside(tmp_path / name, DataError("No image."))
    assert names(tmp_path) == ["mine"]
    assert names(tmp_path / "mine") == []


def test_an_announced_run_that_is_interrupted_can_be_found(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_inside(tmp_path / "run", KeyboardInterrupt())
    found = RunFolder.find(tmp_path / "run")
    assert found.experiment == EXPERIMENT
    with pytest.raises(RunError, match="stopped before its first round"):
        RunFolder.open(tmp_path / "run")
    begun_run(tmp_path / "run", EXPERIMENT, DATA)


def test_a_run_that_began_stays_when_it_fails(folder: RunFolder, tmp_path: Path) -> None:
    def begin_and_fail() -> None:
        with RunFolder.announced(tmp_path / "other", EXPERIMENT) as announced:
            announced.begin(DATA, CPU, KERNELS, MODEL)
            raise DataError("Later.")

    with pytest.raises(DataError):
        begin_and_fail()
    assert RunFolder.open(tmp_path / "other").experiment == EXPERIMENT


def test_a_run_goes_on_with_the_same_data_only(folder: RunFolder) -> None:
    folder.begin({**DATA, "notes": ["worded anew"]}, CPU, KERNELS, MODEL)
    with pytest.raises(RunError, match="have changed since the run began: base_classes"):
        folder.begin({**DATA, "base_classes": ["bee"]}, CPU, KERNELS, MODEL)
    assert folder.data == DATA


def test_a_run_in_use_is_left_to_its_process(tmp_path: Path) -> None:
    """The second process neither writes into the folder nor takes away what the first one announced."""
    with RunFolder.announced(tmp_path / "run", EXPERIMENT):
        for hold in (RunFolder.announced, RunFolder.resumed):
            with (
                pytest.raises(RunError, match="is still running; nothing was changed"),
                hold(tmp_path / "run", EXPERIMENT),
            ):
                pass
        assert names(tmp_path / "run") == ["config.json"]
    with RunFolder.resumed(tmp_path / "run", EXPERIMENT) as resumed:
        assert not resumed.has_begun


@pytest.mark.parametrize("content", ['{"model_type": "clip"}', "[]", "no JSON"])
def test_a_config_json_of_something_else_is_not_overwritten(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunError, match="nothing was changed"):
        begun_run(tmp_path, EXPERIMENT, DATA)
    assert (tmp_path / "config.json").read_text() == content


def test_a_folder_in_use_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    for path, text in (
        (folder.path, "already contains a run"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "full", "not empty"),
    ):
        with pytest.raises(RunError, match=text):
            begun_run(path, EXPERIMENT, DATA)


def test_drafts_do_not_make_a_folder_used(tmp_path: Path) -> None:
    (tmp_path / ".config.json.abc.draft").write_text("{")
    with RunFolder.announced(tmp_path, EXPERIMENT):
        assert names(tmp_path) == ["config.json"]


def test_kernels_of_a_run_are_remembered(folder: RunFolder) -> None:
    """With the reason for them; folders of earlier versions have none."""
    found = RunFolder.open(folder.path).kernels
    assert (found, found.chosen) == (KERNELS, "measured")
    change(folder.path / "environment.json", lambda environment: environment["kernels"].pop("chosen"))
    assert RunFolder.open(folder.path).kernels.chosen == "default"


def test_an_environment_of_another_version(folder: RunFolder) -> None:
    change(folder.path / "environment.json", lambda environment: environment.pop("kernels"))
    with pytest.raises(RunError, match="written by another version: it does not name the kernels"):
        _ = folder.kernels


def test_where_it_runs_may_change(folder: RunFolder) -> None:
    free = {"clients_together": 3, "cache_folder": "off", "cache_disk_gb": 1.0, "cache_memory_gb": 0.0}
    folder.require_same(Experiment(rounds=3, compute=ComputeConfig(**free)))
    with pytest.raises(RunError, match=r"compute\.precision is 'auto' there, 'float32' here"):
        folder.require_same(Experiment(rounds=3, compute=ComputeConfig(precision="float32")))


def test_another_experiment_is_named_key_by_key(folder: RunFolder) -> None:
    folder.require_same(Experiment(rounds=3, compute=ComputeConfig(device="cpu", loading_threads=7)))
    with pytest.raises(RunError) as caught:
        folder.require_same(Experiment(rounds=4, data=DataConfig(alpha=0.5)))
    assert "rounds is 3 there, 4 here; data.alpha is 0.1 there, 0.5 here" in caught.value.message


def test_a_config_of_another_version(folder: RunFolder) -> None:
    (folder.path / "config.json").write_text('{"rounds": 3, "momentum": 0.9}')
    with pytest.raises(RunError, match="written by another version, or is damaged: Unknown key 'momentum'"):
        _ = folder.experiment
