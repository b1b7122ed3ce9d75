"""The families of models, by the `model_type` in their configuration."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Protocol

import torch

from feddtl.backbones.clip import load_clip
from feddtl.backbones.source import model_type
from feddtl.errors import ModelError
from feddtl.models.backbone import Backbone, Tower
from feddtl.state_folder import AnyPath


class Load(Protocol):
    """Loads a model of one family; see `load_backbone`."""

    def __call__(
        self,
        source: AnyPath,
        device: torch.device | str = "cpu",
        *,
        towers: Collection[Tower] | None = None,
        remembered_in: AnyPath | None = None,
    ) -> Backbone:
        """A frozen model in float32."""
        ...


FAMILIES: dict[str, Load] = {"clip": load_clip}


def load_backbone(
    source: AnyPath,
    device: torch.device | str = "cpu",
    *,
    towers: Collection[Tower] | None = None,
    remembered_in: AnyPath | None = None,
) -> Backbone:
    """A model from a Hub id, a local folder, or 'tiny-clip' (the embedded one), frozen and in float32.

    Args:
        source: See above.
        device: Where it computes.
        towers: Those that will be used; None: the whole model, which alone can be exported.
        remembered_in: The cache folder, in which settings and hashes of weights are stored for later processes; None:
            not stored.

    Raises:
        ModelError: Not found, files missing or damaged, or of a family that is not in `FAMILIES`.
    """
    source = os.fspath(source)
    kind = model_type(source)
    if kind not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ModelError(
            f"{source} is a '{kind}' model. There is no backbone of this type.",
            f"Use a model of one of these types: {known}. docs/how-to/add-a-backbone.md explains how to add another.",
        )
    return FAMILIES[kind](source, device, towers=towers, remembered_in=remembered_in)
