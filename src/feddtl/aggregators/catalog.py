"""The aggregators by name. Known without torch; a new one is a file beside this one and a line in the table."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feddtl.aggregators.base import Aggregator
    from feddtl.config import ServerConfig


@dataclass(frozen=True)
class AggregatorEntry:
    """An aggregator, as far as the settings must know it.

    Attributes:
        path: Module and class.
        compares_clients: See `Aggregator`; such a one needs the clients of a whole round.
        trims: Whether it drops ⌊`server.trim_share` · K⌋ of the K clients of a round.
        spare: It needs 2f + `spare` clients, if it drops f of them.
    """

    path: str
    compares_clients: bool = False
    trims: bool = False
    spare: int = 1


AGGREGATORS = {
    "mean": AggregatorEntry("feddtl.aggregators.mean:Mean"),
    "unweighted-mean": AggregatorEntry("feddtl.aggregators.unweighted_mean:UnweightedMean"),
    "median": AggregatorEntry("feddtl.aggregators.median:Median", compares_clients=True),
    "trimmed-mean": AggregatorEntry("feddtl.aggregators.trimmed_mean:TrimmedMean", compares_clients=True, trims=True),
    "geometric-median": AggregatorEntry("feddtl.aggregators.geometric_median:GeometricMedian", compares_clients=True),
    "multi-krum": AggregatorEntry(
        "feddtl.aggregators.multi_krum:MultiKrum", compares_clients=True, trims=True, spare=3
    ),
    "centred-clipping": AggregatorEntry("feddtl.aggregators.centred_clipping:CentredClipping", compares_clients=True),
}

ROBUST = tuple(name for name, entry in AGGREGATORS.items() if entry.compares_clients)
"""Those that bound what a minority of hostile clients can do."""


def build_aggregator(config: ServerConfig) -> Aggregator:
    """The aggregator that the settings name."""
    aggregator: Aggregator = pkgutil.resolve_name(AGGREGATORS[config.aggregator].path)(config)
    return aggregator
