"""Coordinate-wise median (Yin et al., ICML 2018): clients count alike, whatever their number of images."""

from __future__ import annotations

from torch import Tensor

from feddtl.aggregators.robust import RobustAggregator, mean_between


class Median(RobustAggregator):
    """The median of every coordinate; with an even number of clients the mean of the two in the middle."""

    def combine_points(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """See `RobustAggregator.combine_points`."""
        return mean_between(points, (len(points) - 1) // 2)
