"""Settings that all measures share: sizes, repeats, and the opponent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.opponent import Opponent, find_best
from benchmarks.workload import Workload

QUICK = {"shape": "tiny", "classes": 4, "shots": 6, "tests": 3, "clients": 2, "rounds": 2}


@dataclass
class Bench:
    """Settings of a call of the benchmark.

    Attributes:
        workload: The few-shot run that most lines are about.
        scratch: Folder for feddtl's caches and runs, removed at the end.
        repeats: Measurements of each side.
        run_repeats: Whole runs of each side.
        full_reference: Whether to measure the reference's whole run; None: unless it would take too long.
        quick: Tiny shapes, to test the benchmark; the numbers are meaningless.
    """

    workload: Workload
    scratch: Path
    repeats: int = 3
    run_repeats: int = 1
    full_reference: bool | None = None
    quick: bool = False

    def __post_init__(self) -> None:
        if self.quick:
            self.workload = self.workload.scaled(**QUICK)

    @cached_property
    def opponent(self) -> Opponent:
        """The reference at its best on this machine."""
        return find_best(self.workload)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings for the result file, including the opponent's trials if there were any."""
        tried = self.__dict__.get("opponent")
        return {
            "workload": {**asdict(self.workload), "work": ""},
            "repeats": self.repeats,
            "run_repeats": self.run_repeats,
            "quick": self.quick,
            "opponent": None if tried is None else asdict(tried),
        }
