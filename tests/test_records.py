"""Records and summaries as types: files keep their fields, in their order, whoever reads and writes them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from feddtl.errors import RunError
from feddtl.federated_accuracy import FederatedAccuracy
from feddtl.progress_lines import round_line
from feddtl.records import RoundRecord, Summary, read_records

FEDERATED = {"base": 50.0, "novel": None, "harmonic_mean": None, "base_images": 4, "novel_images": 0, "clients": [0]}
BEGINNING: dict[str, Any] = {"round": 2, "stage": "rl", "clients": [0, 1], "lost": [1]}
COSTS = {"train": {"loss": 0.5}, "train_by_client": {"0": {"loss": 0.5}}, "server": {}, "bytes_up": 7, "bytes_down": 9}
SCORES = {"local": 40.0, "local_by_client": {"0": 40.0}, "domains": {"fog": [30.0, None]}}
GLOBAL = {"base": 30.0, "novel": None, "harmonic_mean": None}
TIME = {"virtual_seconds": 1.5}
SECONDS = {"seconds": {"steps": 0.25}}
LINES = {
    "scored by the server": {**BEGINNING, **COSTS, **TIME, **SCORES, **GLOBAL, **SECONDS, "federated": FEDERATED},
    "scored by the clients": {**BEGINNING, **COSTS, **TIME, **SCORES, **SECONDS, "federated": FEDERATED}
    | {key: FEDERATED[key] for key in GLOBAL},
    "not scored": {**BEGINNING, **COSTS, **TIME, **SECONDS},
    "over Flower": {**BEGINNING, "failures": {"1": "gone"}, **COSTS, **TIME, **SECONDS},
    "of a robust aggregator": {**BEGINNING, "shares": {"0": 0.1, "1": 0.45, "2": 0.45}, **COSTS, **TIME, **SECONDS},
    "asynchronous": {**BEGINNING, "delays": [0, 1], **COSTS, **TIME, **SECONDS},
    "the clients' own models": {**BEGINNING, **COSTS, **TIME, **SCORES, **GLOBAL, "client_models": GLOBAL, **SECONDS},
}


@pytest.mark.parametrize("line", LINES.values(), ids=list(LINES))
def test_a_record_is_written_as_it_was_read(line: dict[str, Any]) -> None:
    text = json.dumps(line)
    assert json.dumps(RoundRecord.from_dict(json.loads(text)).to_dict()) == text


def test_equal_scores_of_server_and_clients_keep_their_places() -> None:
    """The clients' share is all that there is to score: nothing but the place says whose scores they are."""
    same = {key: FEDERATED[key] for key in GLOBAL}
    text = json.dumps({**BEGINNING, **COSTS, **TIME, **SCORES, **same, **SECONDS, "federated": FEDERATED})
    assert json.dumps(RoundRecord.from_dict(json.loads(text)).to_dict()) == text


def test_what_was_not_measured_is_nan_in_a_record_and_none_among_the_headline_scores() -> None:
    record = RoundRecord.from_dict(LINES["scored by the server"])
    assert record.scores is not None
    assert record.scores.novel is not None
    assert math.isnan(record.scores.novel)
    assert record.headline == {"local": 40.0, "base": 30.0, "novel": None, "harmonic_mean": None}


def test_the_clients_scores_stand_in_for_those_that_the_server_cannot_measure() -> None:
    assert RoundRecord.from_dict(LINES["scored by the clients"]).headline["base"] == 50.0
    assert RoundRecord.from_dict(LINES["scored by the server"]).headline["base"] == 30.0
    unscored = RoundRecord.from_dict(LINES["not scored"])
    assert not unscored.is_scored
    assert set(unscored.headline.values()) == {None}


def test_a_client_that_counted_less_than_half_as_much_as_alike_is_discounted() -> None:
    """0.1 is below 1/6; without shares nobody is."""
    record = RoundRecord.from_dict(LINES["of a robust aggregator"])
    assert record.discounted == [0]
    assert "  discounted 1  " in round_line(record, 9)
    assert RoundRecord.from_dict(LINES["not scored"]).discounted == []


def test_fields_that_a_record_lacks_are_named() -> None:
    with pytest.raises(RunError, match="the file has no stage, lost, virtual_seconds, seconds: it is damaged or from"):
        read_records([LINES["not scored"], {"round": 3, **COSTS}], "the file")


def test_federated_accuracy_names_its_failures_by_client() -> None:
    found = FederatedAccuracy.from_dict({**FEDERATED, "failures": {"3": "gone"}})
    assert found.failures == {3: "gone"}
    assert json.loads(json.dumps(found.to_dict())) == {**FEDERATED, "failures": {"3": "gone"}}


def test_committed_summaries_are_written_as_they_were_read() -> None:
    """Those of all versions; beside the summary, a file of results has facts of its own."""
    count = 0
    for file in sorted((Path(__file__).parents[1] / "results").glob("*.json")):
        for run in json.loads(file.read_text(encoding="utf-8"))["runs"]:
            written = Summary.from_dict(run).to_dict()
            assert written == {"final_domain_mean": None} | {key: run[key] for key in written if key in run}
            count += 1
    assert count > 200


def test_a_summary_without_scores_is_refused() -> None:
    with pytest.raises(RunError, match="the file has no zero_shot, final, final_domains") as caught:
        Summary.from_dict(dict.fromkeys(("method", "stages", "dataset", "model", "regime", "partition"), "x")
                          | dict.fromkeys(("clients", "seed", "rounds"), 1), "the file")  # fmt: skip
    assert "another --output" in caught.value.hint
