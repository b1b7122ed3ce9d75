"""Aggregators that bound what a minority of clients can do: they compare the clients of a round, which count alike.

Each sees a client's tensors as one vector. Nearest-neighbour mixing may come before any of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from feddtl.aggregators.base import Aggregator
from feddtl.messages import Aggregate, Update

# Scores that differ by less than this share of them are equal: rounding must not decide between two clients.
TIE = 1e-9


class RobustAggregator(Aggregator):
    """An aggregator of points: K clients, D numbers each, in float64."""

    compares_clients: ClassVar[bool] = True

    @abstractmethod
    def combine_points(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The aggregate (D,) of the points (K, D), and how much each counts (K,), which sums to 1."""

    def combine(self, updates: Sequence[Update]) -> Aggregate:
        """See `Aggregator.combine`; mixes first with `server.nearest_neighbour_mixing`."""
        like = updates[0].weights
        points = torch.stack(
            [torch.cat([update.weights[name].double().flatten().cpu() for name in like]) for update in updates]
        )
        if self.config.nearest_neighbour_mixing:
            mixing = neighbour_mixing(points, self.config.trimmed(len(points)))
            vector, shares = self.combine_points(mixing @ points)
            shares = shares @ mixing
        else:
            vector, shares = self.combine_points(points)
        parts = torch.split(vector, [tensor.numel() for tensor in like.values()])
        combined = {
            name: part.view(tensor.shape).to(tensor.dtype, copy=True)
            for (name, tensor), part in zip(like.items(), parts, strict=True)
        }
        return Aggregate(combined, shares.tolist())


def neighbour_mixing(points: Tensor, trimmed: int) -> Tensor:
    """Nearest-neighbour mixing (Allouah et al., AISTATS 2023, Algorithm 2), as a matrix M (K, K).

    M · points has, in place of each point, the mean of its K − f nearest points, itself among them; f is `trimmed`.
    """
    kept = len(points) - trimmed
    return smallest(distances(points, points), kept) / kept


def distances(points: Tensor, others: Tensor) -> Tensor:
    """Euclidean distances (K, L) of points (K, D) and others (L, D)."""
    # The faster way over inner products loses small distances beside large norms.
    return torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")


def smallest(values: Tensor, count: int) -> Tensor:
    """Weights from 0 to 1 of non-negative values (…, K): 1 for the `count` smallest; the sum is `count`.

    Values that are equal at the limit share what is left, so that the order of clients decides nothing.
    """
    limit = values.sort(dim=-1).values[..., count - 1 : count]
    below = (values < limit * (1 - TIE)).to(values.dtype)
    level = (values <= limit * (1 + TIE)).to(values.dtype) - below
    return below + level * (count - below.sum(dim=-1, keepdim=True)) / level.sum(dim=-1, keepdim=True)


def sorted_coordinates(points: Tensor) -> Tensor:
    """Every coordinate of the points (K, D) in ascending order, (K, D)."""
    # Ten times as fast as torch's sort along the first dimension.
    return torch.from_numpy(np.sort(points.numpy(), axis=0))


def median(points: Tensor) -> Tensor:
    """Median (D,) of every coordinate; with an even number of points the mean of the two in the middle."""
    ordered = sorted_coordinates(points)
    return (ordered[(len(points) - 1) // 2] + ordered[len(points) // 2]) / 2


def mean_between(points: Tensor, dropped: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) of every coordinate without the `dropped` smallest and largest, and the share of each point (K,).

    A point's share is that of its coordinates which were kept.
    """
    ordered = sorted_coordinates(points)[dropped : len(points) - dropped]
    kept = ((points >= ordered[0]) & (points <= ordered[-1])).to(points.dtype)
    shares = kept @ (1 / kept.sum(dim=0)) / points.shape[1]
    return ordered.mean(dim=0), shares
