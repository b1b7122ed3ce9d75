"""Geometric median by the smoothed Weiszfeld algorithm (RFA, Pillutla, Kakade and Harchaoui, IEEE TSP 2022).

Departures: it starts at the median of every coordinate instead of a mean, from which one huge update would keep it for
many steps, and it goes on until it stands still, since here a step costs no round.
"""

from __future__ import annotations

import torch
from torch import Tensor

from feddtl.aggregators.robust import RobustAggregator, distances, median

SMOOTHING = 1e-6  # ν of the paper: a point nearer than this pulls no stronger
MOST_STEPS = 100
STILL = 1e-7  # a step below this share of the median distance is the last


class GeometricMedian(RobustAggregator):
    """argmin_v Σ_k ‖v − w_k‖₂: each client pulls with the same force, however far away it is."""

    def combine_points(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """v ← Σ_k β_k w_k / Σ_k β_k with β_k = 1 / max(ν, ‖v − w_k‖₂); the shares are the last β_k / Σ_k β_k."""
        centre = median(points)
        for _ in range(MOST_STEPS):
            away = distances(points, centre[None])[:, 0]
            pull = 1 / away.clamp(min=SMOOTHING)
            shares = pull / pull.sum()
            before, centre = centre, shares @ points
            if torch.linalg.vector_norm(centre - before) <= STILL * away.median():
                break
        return centre, shares
