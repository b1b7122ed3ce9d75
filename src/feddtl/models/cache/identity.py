"""What decides the output of frozen blocks: the name under which a cache keeps it."""

from __future__ import annotations

from typing import Any

from feddtl.models.cache.packed import StoredPrecision
from feddtl.models.digests import joint_digest
from feddtl.models.image_tower import ImageTower

# Of everything that is not named below: how images are decoded, views drawn, rows rounded and files laid out.
FORMAT = 1


def prefix_identity(tower: ImageTower, stop: int, stored: StoredPrecision) -> dict[str, Any]:
    """Everything that decides `tower.prefix(·, stop)` as it is kept, as JSON; 'name' is for readers only.

    The device changes the last digits alone, but a result must not depend on which run filled the cache.
    """
    return {
        "name": tower.name,
        "format": FORMAT,
        "weights": joint_digest(tower.prefix_digests(stop)),
        "architecture": tower.architecture,
        "preprocessing": dict(tower.preprocessing.identity),
        "block": stop,
        "blocks": len(tower.stack),
        "stored": stored,
        "precision": str(tower.precision).removeprefix("torch."),
        "device": tower.device.type,
    }
