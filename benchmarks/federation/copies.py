"""Memory that one update needs in each step between client and server, in addition to the memory before that step.

    python -m benchmarks.federation.copies --megabytes 64

Linux only: the peak of a step is read from, and reset in, /proc/self.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks.federation.processes import peak
from benchmarks.federation.results import add_result
from feddtl.messages import ExpectedUpdate, Update
from feddtl.runtimes.flower.records import from_records, to_records
from feddtl.runtimes.node import ImageCounts
from feddtl.runtimes.wire.contract import Contract
from feddtl.runtimes.wire.messages import Reply, ReplyRequirements, pack_reply, unpack_reply
from feddtl.transforms.chain import Chain

CONTRACT = Contract("model", "classes")
Result = TypeVar("Result")


def measure(megabytes: int) -> dict[str, dict[str, int]]:
    """Bytes by step: those still allocated at its end, and its peak."""
    found: dict[str, dict[str, int]] = {}

    def step(name: str, work: Callable[[], Result]) -> Result:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
        before = resident()
        result = work()
        found[name] = {"held_bytes": resident() - before, "peak_bytes": peak(os.getpid()) - before}
        return result

    sent = {"weights": torch.zeros(megabytes * 2**18)}
    update = Update(0, 1, {"weights": torch.randn(megabytes * 2**18)}, {}, {})
    parcel = step("client: pack and check", lambda: pack_reply(Reply(update), 1, CONTRACT))
    records = step("client: Flower's records", lambda: to_records(parcel))
    received = step("server: read Flower's records", lambda: from_records(records))
    required = ReplyRequirements(
        CONTRACT, 0, 1, ImageCounts(1, 0, 0), 1, ExpectedUpdate(sent, {}, ()), chain=Chain(), seed=0
    )
    step("server: unpack and check", lambda: unpack_reply(received, required))
    return found


def resident() -> int:
    """Resident bytes of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=64, help="of the update, in MiB")
    arguments = parser.parse_args()
    found = measure(arguments.megabytes)
    add_result("copies", "an update", {"steps": found}, vars(arguments))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
