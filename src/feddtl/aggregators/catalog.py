"""The aggregators by name. Known without torch; a new one is a file beside this one and a line in the table."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feddtl.aggregators.base import Aggregator
    from feddtl.config import ServerConfig

AGGREGATORS: dict[str, str] = {
    "mean": "feddtl.aggregators.mean:Mean",
    "unweighted-mean": "feddtl.aggregators.unweighted_mean:UnweightedMean",
    "median": "feddtl.aggregators.median:Median",
    "trimmed-mean": "feddtl.aggregators.trimmed_mean:TrimmedMean",
}


def build_aggregator(config: ServerConfig) -> Aggregator:
    """The aggregator that the settings name."""
    aggregator: Aggregator = pkgutil.resolve_name(AGGREGATORS[config.aggregator])(config)
    return aggregator
