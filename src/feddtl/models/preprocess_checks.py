"""Whether a processor of transformers makes what an image tower takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from PIL import Image

CHANNELS = 3


def preprocessing_problem(settings: Mapping[str, Any], side: int) -> str:
    """Why a processor does not fit a tower, as the end of a sentence that begins with its name; empty if it does.

    Args:
        settings: Of the processor, as `preprocessing_identity`.
        side: Pixels of the square images that the tower takes.
    """
    return _wrong_number(settings) or _wrong_size(settings, side)


def _wrong_number(settings: Mapping[str, Any]) -> str:
    for name in ("image_mean", "image_std") if settings.get("do_normalize") else ():
        values = settings.get(name)
        given = values if isinstance(values, list) else [values] * CHANNELS
        least = -math.inf if name == "image_mean" else 0.0
        if len(given) != CHANNELS or not all(_is_number(value) and value > least for value in given):
            wanted = "three numbers" if name == "image_mean" else "three numbers above 0"
            return f"has {name} = {values}, not {wanted}"
    factor = settings.get("rescale_factor")
    if settings.get("do_rescale") and not (_is_number(factor) and factor > 0):
        return f"has rescale_factor = {factor}, not a number above 0"
    filters = [int(known) for known in Image.Resampling]
    if settings.get("do_resize") and settings.get("resample") not in filters:
        return f"has resample = {settings.get('resample')}, not a filter of Pillow, {min(filters)} to {max(filters)}"
    return ""


def _wrong_size(settings: Mapping[str, Any], side: int) -> str:
    size, crop = (_given(settings.get(name)) for name in ("size", "crop_size"))
    resizes, crops = settings.get("do_resize"), settings.get("do_center_crop")
    for name, sizes, used in (("size", size, resizes), ("crop_size", crop, crops)):
        if used and (not sizes or not all(type(value) is int and value > 0 for value in sizes.values())):
            return f"has {name} = {settings.get(name)}, not whole numbers above 0"
    made = crop if crops else size if resizes else {}
    if made.keys() != {"height", "width"}:
        return f"has no centre crop, so it makes images of different sizes; the model takes {side}×{side} pixels"
    if (made["height"], made["width"]) != (side, side):
        return f"makes images of {made['width']}×{made['height']} pixels; the model takes {side}×{side}"
    return ""


def _given(sizes: Any) -> dict[str, Any]:
    """Sizes by name, without those that are not set."""
    return {name: value for name, value in sizes.items() if value is not None} if isinstance(sizes, Mapping) else {}


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
