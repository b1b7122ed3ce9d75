"""Centred clipping (Karimireddy, He and Jaggi, ICML 2021): a client moves the aggregate by τ/K at most.

The paper leaves the centre v and the radius τ open. Here v is the median of every coordinate, and τ the median of the
clients' distances from it: both follow the updates from round to round, and a minority can carry away neither.
"""

from __future__ import annotations

import torch
from torch import Tensor

from feddtl.aggregators.robust import RobustAggregator, distances, median


class CentredClipping(RobustAggregator):
    """v + 1/K · Σ_k (w_k − v) · min(1, τ / ‖w_k − v‖₂), one step of the paper's iteration."""

    def combine_points(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """See `RobustAggregator.combine_points`; the shares are in proportion to the factors of clipping."""
        centre = median(points)
        away = distances(points, centre[None])[:, 0]
        radius = away.median()
        factors = torch.where(away > radius, radius / away, 1.0)
        return centre + factors @ (points - centre) / len(points), factors / factors.sum()
