"""The attacks by name. Known without torch; a new one is a class beside this file and a line in the table."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feddtl.attacks.base import Attack

NO_ATTACK = "none"


@dataclass(frozen=True)
class AttackEntry:
    """An attack, as far as the settings must know it.

    Attributes:
        path: Module and class.
        scale: What `attack.scale = "auto"` stands for; None: it has no scale.
        on_embeddings: Whether it changes the embeddings or labels that clients upload, so that it needs some.
    """

    path: str
    scale: float | None = None
    on_embeddings: bool = False


ATTACKS = {
    "label-flip": AttackEntry("feddtl.attacks.labels:LabelFlip"),
    "upload-flip": AttackEntry("feddtl.attacks.embeddings:UploadFlip", on_embeddings=True),
    "one-class": AttackEntry("feddtl.attacks.embeddings:OneClass", on_embeddings=True),
    "random-embeddings": AttackEntry("feddtl.attacks.embeddings:RandomEmbeddings", on_embeddings=True),
    "sign-flip": AttackEntry("feddtl.attacks.updates:SignFlip", scale=1.0),
    "scaling": AttackEntry("feddtl.attacks.updates:Scaling", scale=10.0),
    "inflated-count": AttackEntry("feddtl.attacks.updates:InflatedCount", scale=10.0),
    "alie": AttackEntry("feddtl.attacks.omniscient:ALittleIsEnough", scale=1.5),
    "ipm": AttackEntry("feddtl.attacks.omniscient:InnerProductManipulation", scale=2.0),
}


def build_attack(name: str, scale: float) -> Attack:
    """The attack of a name in the table."""
    attack: Attack = pkgutil.resolve_name(ATTACKS[name].path)(scale)
    return attack
