"""What `make test-flower` runs: each file that needs Flower, and none that was run already."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_files_that_need_flower_are_named() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    named = re.search(r"^FLOWER_TESTS := (.*)$", makefile, re.MULTILINE)
    assert named is not None
    listed = {
        file
        for name in named[1].split()
        for file in ([ROOT / name] if name.endswith(".py") else (ROOT / name).glob("test_*.py"))
    }
    needing = {
        file
        for file in (ROOT / "tests").rglob("test_*.py")
        if re.search(r'importorskip\("(flwr|cryptography)"', file.read_text(encoding="utf-8"))
        and file.parent.name != "distributed"
    }
    assert listed == needing
