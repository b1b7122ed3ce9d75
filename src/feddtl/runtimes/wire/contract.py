"""What both sides must have in common, and the parcel that travels between them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from feddtl.config import Experiment
from feddtl.errors import ClientError
from feddtl.methods.catalog import method_digest
from feddtl.methods.task import Task

SCHEMA = 5
Precision = Literal["float32", "float16"]
Scalar = str | int | float | bool


class RejectedMessageError(ClientError):
    """A received message cannot be used; the error names the part, its value and the expected one."""


@dataclass(frozen=True)
class Parcel:
    """One message.

    Attributes:
        arrays: By name, in the order of the schema.
        scalars: The other values needed to use them.
        metrics: Numbers for the log.
    """

    arrays: Mapping[str, NDArray[Any]]
    scalars: Mapping[str, Scalar]
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Contract:
    """What both sides must have in common before tensors mean the same to them.

    Attributes:
        model: Hash of what determines the CLIP's output: weights, settings, preprocessor, tokenizer.
        classes: Hash of the base classes, in label order, and of the prompt.
        precision: Of floating-point tensors in a broadcast.
        method: Hash of the file of a user's own method; empty for a method of feddtl.
    """

    model: str
    classes: str
    precision: Precision = "float32"
    method: str = ""

    @classmethod
    def of(cls, task: Task, experiment: Experiment) -> Contract:
        """The contract of an experiment on its task."""
        names = json.dumps([task.class_names, task.prompt_template])
        classes = hashlib.sha256(names.encode()).hexdigest()
        digest = method_digest(experiment.method)
        model = hashlib.sha256(json.dumps(task.clip.identity(), sort_keys=True).encode()).hexdigest()
        return cls(model, classes, experiment.deployment.precision, digest)

    def scalars(self) -> dict[str, Scalar]:
        """The contract's scalars in a message."""
        return {"schema": SCHEMA, **asdict(self)}

    def require(self, scalars: Mapping[str, Scalar]) -> None:
        """Raise RejectedMessageError naming the first scalar in which the other side differs."""
        explained = {
            "schema": "it comes from another version of feddtl",
            "model": "the other side has a different CLIP, or another tokenizer or preprocessor beside it",
            "classes": "the other side has different classes, a different order of classes, or a different prompt",
            "precision": "the other side sends tensors in a different precision",
            "method": "the other side has another file of the method",
        }
        for name, mine in self.scalars().items():
            theirs = scalars.get(name)
            if type(theirs) is not type(mine) or theirs != mine:
                raise RejectedMessageError(f"{name} is {short(theirs)}, not {short(mine)}: {explained[name]}.")


def plain(text: object, most: int = 1000) -> str:
    """A stranger's text on one line, of limited length, without characters that control a terminal."""
    joined = " ".join(str(text).split())
    return "".join(character for character in joined if character.isprintable())[:most]


def short(value: object) -> str:
    """A value for an error message."""
    text = plain(value, 41)
    return text if len(text) <= 40 else f"{text[:12]}…"
