"""Files of unknown origin: nested too deeply, in another encoding, of other types, with a changed byte."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from made_records import made_record

from feddtl.checkpoints import read_checkpoint, write_checkpoint
from feddtl.errors import ConfigError, FeddtlError, RunError
from feddtl.experiment_file import load_experiment, load_experiments
from feddtl.messages import ServerState
from feddtl.parsing import parse_json, parse_table, parse_toml, text_of
from feddtl.record_fields import check_types, checked
from feddtl.records import Summary
from feddtl.run_files import read_data, read_experiment
from feddtl.runtimes.rounds import Progress

DEEP = 5000


@pytest.mark.parametrize("parse", [parse_json, parse_toml])
@pytest.mark.parametrize("levels", [65, DEEP])
def test_nesting_is_bounded(parse: Callable[[bytes], Any], levels: int) -> None:
    lists = "[" * levels + "]" * levels
    text = lists if parse is parse_json else f"a = {lists}"
    with pytest.raises(ValueError, match="more than 64 tables or lists inside each other"):
        parse(text.encode())


def test_deep_tables_are_bounded_too() -> None:
    with pytest.raises(ValueError, match="inside each other"):
        parse_toml(".".join("a" * DEEP).encode() + b" = 1")
    with pytest.raises(ValueError, match="inside each other"):
        parse_json('{"a":' * DEEP + "1" + "}" * DEEP)
    assert parse_json("[" * 64 + "]" * 64)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("rounds = 1".encode("utf-16"), "it is saved as UTF-16; save it as UTF-8"),
        ("rounds = 1".encode("utf-16-be"), "null characters"),
        ("a = 1\nb = 'é'".encode("latin-1"), r"it is not saved as UTF-8 \(byte 0xe9 in line 2\)"),
        (b"\xff\xfe\x00", "UTF-16"),
    ],
)
def test_encodings_are_named(content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        text_of(content)
    (tmp_path / "one.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        load_experiment(tmp_path / "one.toml")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_bytes(b"\xef\xbb\xbfrounds = 7\r\n")
    assert load_experiment(tmp_path / "one.toml").rounds == 7
    assert parse_table(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [
        f"rounds = {'9' * 5000}",
        "rounds = 1979-05-27",
        "data = [1]",
        "[[data]]\nclients = 2",
        "lora = {}\nlora.rank.x = 1",
        "lora.rank = [1]",
        "method = ['feddtl']",
        "method = {a = 1}",
        "[grid]\nlora = 1",
        "[grid]\nlora.rank = [[1]]",
        "[grid]\nlora.rank = [{a = 1}]",
        "[variants]\na = [1]",
        "grid = 3",
        "variants = [1]",
        f"data.source = '{'x' * 10_000}'\ndata.clients = '{'y' * 10_000}'",
    ],
)
def test_wrong_types_in_an_experiment_file_are_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "one.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_experiments(file)
    assert str(file) in caught.value.message
    assert len(caught.value.message) < len(str(file)) + 400


def test_a_grid_of_millions_is_refused_with_its_count(tmp_path: Path) -> None:
    file = tmp_path / "one.toml"
    axes = "\n".join(f"{key} = {list(range(1, 1001))}" for key in ("rounds", "lora.rank", "data.clients"))
    file.write_text(f"[grid]\n{axes}\n[variants]\na = {{}}\nb = {{}}")
    with pytest.raises(ConfigError) as caught:
        load_experiments(file)
    assert "2,000,000,000 experiments: 1,000 (rounds) x 1,000 (lora.rank)" in caught.value.message


@dataclass(frozen=True)
class Inner:
    pair: tuple[int, float]


@dataclass(frozen=True)
class Outer:
    number: float
    name: str | None
    kind: Literal["a", "b"]
    table: Mapping[str, Sequence[int]]
    inner: Inner | None = None


RIGHT = {"number": 1, "name": None, "kind": "a", "table": {"x": [1]}}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"number": True}, "number is True"),
        ({"number": "1"}, "number is '1'"),
        ({"name": 3}, "name is 3"),
        ({"kind": "c"}, "kind is 'c'"),
        ({"kind": []}, r"kind is \[\]"),
        ({"table": [1]}, r"table is \[1\] instead of a table"),
        ({"table": {"x": "12"}}, "table.x is '12' instead of a list"),
        ({"table": {"x": [1, 2.5]}}, r"table.x\[1\] is 2.5"),
        ({"inner": {"pair": [1, 2]}}, "inner is .* instead of a table"),
        ({"inner": Inner((1,))}, "pair has 1 entries instead of 2"),  # type: ignore[arg-type]
        ({"inner": Inner((1.5, 2.0))}, r"pair\[0\] is 1.5"),  # type: ignore[arg-type]
    ],
)
def test_types_of_fields(change: dict[str, Any], fault: str) -> None:
    assert checked(Outer(**RIGHT, inner=Inner((1, 2)))).number == 1  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=fault):
        checked(Outer(**{**RIGHT, **change}))


def test_keys_without_a_type_are_not_looked_at() -> None:
    check_types({"a": int, "absent": str}, {"a": 1, "b": object()})


@pytest.mark.parametrize(
    "content", ["[]", "3", '"text"', "null", "[" * DEEP, '{"dataset": 3}', '{"base_classes": "ab"}']
)
def test_wrong_json_in_a_run_folder_names_the_file(content: str, tmp_path: Path) -> None:
    file = tmp_path / "some.json"
    file.write_text(content)
    for read in (read_data, read_experiment):
        with pytest.raises(RunError, match="some"):
            read(file)


@pytest.mark.parametrize("content", [[], "text", {"seed": 1}])
def test_a_summary_that_is_none(content: Any) -> None:
    with pytest.raises(RunError, match="the file"):
        Summary.from_dict(content, "the file")


def progress() -> Progress:
    records = tuple(made_record(n, stage="sft", base=40.0, novel=50.0) for n in range(1, 4))
    return Progress(ServerState(3, {"a": torch.arange(4.0)}), {2: {"b": torch.ones(2)}}, records)


def test_no_changed_byte_of_a_checkpoint_is_believed(tmp_path: Path) -> None:
    """Every byte once, by a random other one."""
    write_checkpoint(tmp_path, progress())
    file = tmp_path / "progress.json"
    whole, draw, read = file.read_bytes(), random.Random(0), 0
    for position in range(len(whole)):
        other = draw.choice([letter for letter in range(256) if letter != whole[position]])
        file.write_bytes(whole[:position] + bytes([other]) + whole[position + 1 :])
        try:
            read_checkpoint(tmp_path)
            read += whole[position : position + 1] != b"\n"  # the line's end is not part of the value
        except FeddtlError:
            pass
    assert read == 0
    file.write_bytes(whole)
    assert read_checkpoint(tmp_path).records == progress().records


def test_a_checkpoint_without_a_checksum_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, progress())
    file = tmp_path / "progress.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in content.items() if key != "sha256"}))
    with pytest.raises(RunError, match="its checksum is missing"):
        read_checkpoint(tmp_path)


def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path, progress())

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(RunError, match=r"Cannot read .*Permission denied") as caught:
        read_checkpoint(tmp_path)
    assert "rm -r" not in caught.value.hint
