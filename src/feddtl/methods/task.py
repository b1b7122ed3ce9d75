"""The task of a federation: what server and clients agree on before round 1."""

from __future__ import annotations

from dataclasses import dataclass

from feddtl.models.backbone import Backbone


@dataclass(frozen=True)
class Task:
    """What server and clients agree on before round 1.

    Attributes:
        clip: The frozen model.
        class_names: The base classes, in label order.
        prompt_template: Text with `{class}` in it; several, one a line.
        seed: Seed of everything random in the method.
        novel_names: Classes that nobody trains on and that clients have test images of.
    """

    clip: Backbone
    class_names: tuple[str, ...]
    prompt_template: str
    seed: int
    novel_names: tuple[str, ...] = ()
