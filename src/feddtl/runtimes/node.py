"""What a client's machine is told when it is set up, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# What a client is asked for: who it is, an update, or how many of its test images the model gets right.
Request = Literal["query", "train", "evaluate"]


@dataclass(frozen=True)
class Node:
    """Settings of one client's machine.

    Attributes:
        client: Id from 0.
        data: Path of its images, or of its copy of the data set; empty: what the experiment names.
        model: Path of its copy of the CLIP; empty: what the experiment names.
        method: FILE.py:Class of a method that is not one of feddtl's; empty: it takes part in feddtl's methods alone.
    """

    client: int
    data: str = ""
    model: str = ""
    method: str = ""


@dataclass(frozen=True)
class ImageCounts:
    """How many images a client has.

    Attributes:
        train: Of base classes, that it trains on.
        base: Of base classes, that it tests on.
        novel: Of novel classes, that it tests on.
    """

    train: int
    base: int
    novel: int = 0
