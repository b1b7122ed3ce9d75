"""Records of rounds with made-up numbers."""

from __future__ import annotations

from typing import Any

from feddtl.records import RoundRecord


def made_record(number: int, **values: Any) -> RoundRecord:
    """The record of a round, with the fields of a file; what a test does not give is next to nothing."""
    facts = {"stage": "sft", "clients": [], "lost": [], "train": {}, "server": {}, "bytes_up": 0, "bytes_down": 0}
    scored = {"local": None} if {"base", "novel", "local_by_client"} & values.keys() else {}
    return RoundRecord.from_dict({"round": number, **facts, "virtual_seconds": 0.0, **scored, "seconds": {}, **values})
