"""What a client trains on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from feddtl.models.activations import Activations


@dataclass(frozen=True)
class ClientData:
    """A client's training images, once through the blocks that never change.

    Attributes:
        client: Id from 0.
        activations: N · views rows (S, d), the input of the method's first changing image block; row
            index · views + view.
        labels: (N,) base-class ids.
        views: Frozen views of each image.
    """

    client: int
    activations: Activations
    labels: Tensor
    views: int = 1

    def __len__(self) -> int:
        return len(self.labels)

    def activations_of(self, indices: Tensor, round_number: int) -> Tensor:
        """Activations (B, S, d) of images (B,), in the view whose turn it is.

        One round sees one view of an image, so that the old policy, the reference and the upload agree; its
        neighbours are seen in other views at the same time.
        """
        view = (round_number - 1 + indices) % self.views
        return self.activations.rows(indices * self.views + view)

    def select(self, indices: Tensor) -> ClientData:
        """The images at indices (N,), in all their views; no activation is copied."""
        chosen = self.activations.select(rows_of_views(indices, self.views))
        return ClientData(self.client, chosen, self.labels[indices], self.views)


def rows_of_views(indices: Tensor, views: int) -> Tensor:
    """Rows of all views of images (N,), image by image: (N · views,)."""
    return (indices[:, None] * views + torch.arange(views)).flatten()
