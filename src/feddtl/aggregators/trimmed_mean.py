"""Coordinate-wise trimmed mean (Yin et al., ICML 2018): clients count alike, whatever their number of images."""

from __future__ import annotations

from torch import Tensor

from feddtl.aggregators.robust import RobustAggregator, mean_between


class TrimmedMean(RobustAggregator):
    """Drops the ⌊β·K⌋ smallest and as many largest values of every coordinate and averages the rest.

    β is `server.trim_share`; below 1/2 it leaves a client or more.
    """

    def combine_points(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """See `RobustAggregator.combine_points`."""
        return mean_between(points, self.config.trimmed(len(points)))
