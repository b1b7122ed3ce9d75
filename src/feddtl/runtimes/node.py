"""The settings of a client's machine, and its answer about its images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# The requests to a client: which client it is, an update, or its hits on its own test images.
Request = Literal["query", "train", "evaluate"]


@dataclass(frozen=True)
class Node:
    """Settings of one client's machine.

    Attributes:
        client: Id from 0.
        data: Path of its images, or of its copy of the data set; empty: as in the experiment.
        model: Path of its copy of the CLIP; empty: as in the experiment.
        method: FILE.py:Class of a user's own method; empty: it participates only in feddtl's methods.
    """

    client: int
    data: str = ""
    model: str = ""
    method: str = ""


@dataclass(frozen=True)
class ImageCounts:
    """How many images a client has.

    Attributes:
        train: Training images, of base classes.
        base: Test images of base classes.
        novel: Test images of novel classes.
    """

    train: int
    base: int
    novel: int = 0
