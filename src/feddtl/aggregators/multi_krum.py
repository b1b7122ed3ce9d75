"""Multi-Krum (Blanchard et al., NeurIPS 2017): the mean of the clients that are nearest to their neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from feddtl.aggregators.robust import RobustAggregator, distances, smallest


class MultiKrum(RobustAggregator):
    """Averages the K − f clients with the lowest scores: the sum of squared distances to the K − f − 2 nearest others.

    f = ⌊`server.trim_share` · K⌋ clients are dropped. The paper needs K ≥ 2f + 3.
    """

    def combine_points(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """See `RobustAggregator.combine_points`."""
        clients = len(points)
        kept = clients - self.config.trimmed(clients)
        # When clients were lost, fewer than the paper needs may be left.
        neighbours = min(max(kept - 2, 1), clients - 1)
        apart = distances(points, points).square()
        apart.fill_diagonal_(torch.inf)
        scores = apart.sort(dim=1).values[:, :neighbours].sum(dim=1)
        shares = smallest(scores, kept) / kept
        return shares @ points, shares
