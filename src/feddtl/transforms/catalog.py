"""The transforms by name. Known without torch; a new one is a file beside this one and a line in the table."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feddtl.config import UplinkConfig
    from feddtl.transforms.chain import Chain

TRANSFORMS: dict[str, str] = {
    "norm-bound": "feddtl.transforms.norm_bound:NormBound",
    "float16": "feddtl.transforms.float16:Float16",
}


def build_chain(config: UplinkConfig) -> Chain:
    """The transforms that the settings name, in their order."""
    from feddtl.transforms.chain import Chain

    return Chain([pkgutil.resolve_name(TRANSFORMS[name])(config) for name in config.transform_names])
