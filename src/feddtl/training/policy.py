"""CLIP on the images of one or several clients, as a function of their tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from feddtl.objectives.supervised import clip_logits
from feddtl.training.client_data import ClientData
from feddtl.training.local import Batch

ClientTensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Microbatch:
    """Images that go through the model together.

    Attributes:
        indices: (R,) among the policy's images.
        parts: (R,) part of a step, or client, to which each image belongs; sorted.
    """

    indices: Tensor
    parts: Tensor

    @property
    def first(self) -> int:
        """The first part in it."""
        return int(self.parts[0])

    @property
    def counts(self) -> list[int]:
        """Images of each part in it; parts follow one another without a gap."""
        return torch.bincount(self.parts - self.parts[0]).tolist()


@dataclass
class Policy:
    """The model on the joint images of some clients, client after client.

    Attributes:
        clients: Whose images; they follow one another.
        round: Decides the view of each image.
        encode_images: (tensors of each part, activations (R, S, d), part of each image (R,)) -> (R, e) projected
            features before normalisation.
        text_embeddings: Tensors of each part -> (parts, C, e) unit rows, or (1, C, e) if all share them.
        logit_scale: s.
        feature_width: e.
        device: Where it computes.
        images_per_pass: Images that one pass should take.
        labels: Of all images.
    """

    clients: Sequence[ClientData]
    round: int
    encode_images: Callable[[Sequence[ClientTensors], Tensor, Tensor], Tensor]
    text_embeddings: Callable[[Sequence[ClientTensors]], Tensor]
    logit_scale: float
    feature_width: int
    device: torch.device
    images_per_pass: int
    labels: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.labels = torch.cat([data.labels for data in self.clients]).to(self.device)
        self._starts = torch.tensor([0, *accumulate(len(data) for data in self.clients)])

    def indices_of(self, client: int) -> range:
        """Images of the client at this position."""
        return range(int(self._starts[client]), int(self._starts[client + 1]))

    def microbatches(self, batches: Sequence[Batch]) -> list[Microbatch]:
        """The images of all batches, cut evenly into as few passes as fit; part i is batches[i]."""
        indices = torch.cat([batch.indices for batch in batches])
        sizes = torch.tensor([len(batch.indices) for batch in batches])
        parts = torch.repeat_interleave(torch.arange(len(batches)), sizes)
        passes = -(-len(indices) // self.images_per_pass)
        return [
            Microbatch(*pair) for pair in zip(indices.tensor_split(passes), parts.tensor_split(passes), strict=True)
        ]

    def labels_of(self, microbatch: Microbatch) -> Tensor:
        """(R,) labels on the device."""
        return self.labels[microbatch.indices.to(self.device, non_blocking=True)]

    def features(self, tensors: Sequence[ClientTensors], microbatch: Microbatch) -> Tensor:
        """(R, e) projected features; tensors of each part, or one mapping for all."""
        if len(tensors) == 1:
            return self.encode_images(
                tensors, self._activations(microbatch.indices), torch.zeros_like(microbatch.parts)
            )
        present = tensors[microbatch.first : microbatch.first + len(microbatch.counts)]
        return self.encode_images(present, self._activations(microbatch.indices), microbatch.parts - microbatch.first)

    def logits(self, features: Tensor, text: Tensor, microbatch: Microbatch) -> Tensor:
        """(R, C) from features (R, e) and text embeddings (parts, C, e) or (1, C, e)."""
        if len(text) == 1:
            return clip_logits(features, text[0], self.logit_scale)
        shares = zip(torch.split(features, microbatch.counts), text[microbatch.first :], strict=False)
        return torch.cat([clip_logits(share, own, self.logit_scale) for share, own in shares])

    @torch.no_grad()
    def all_features(self, tensors: Sequence[ClientTensors], clients: Sequence[int] | None = None) -> Tensor:
        """Features of all images of some clients (all by default), (N, e); tensors of each, or one mapping for all."""
        return torch.cat(
            [self.features(tensors, microbatch) for microbatch in self.microbatches(self._everything(clients))]
        )

    @torch.no_grad()
    def all_log_probs(self, tensors: Sequence[ClientTensors]) -> Tensor:
        """(N, C) log π(c|x) of all images; tensors of each client, or one mapping for all."""
        text = self.text_embeddings(tensors)
        logits = [
            self.logits(self.features(tensors, microbatch), text, microbatch)
            for microbatch in self.microbatches(self._everything())
        ]
        return torch.cat(logits).log_softmax(dim=-1)

    def _everything(self, clients: Sequence[int] | None = None) -> list[Batch]:
        chosen = range(len(self.clients)) if clients is None else clients
        return [Batch(client, torch.tensor(self.indices_of(client))) for client in chosen]

    def _activations(self, indices: Tensor) -> Tensor:
        """(R, S, d) on the device; images of one client follow one another."""
        owners = torch.bucketize(indices, self._starts, right=True) - 1
        clients, counts = torch.unique_consecutive(owners, return_counts=True)
        shares = zip(clients.tolist(), torch.split(indices, counts.tolist()), strict=True)
        # Some of the clients' activations may be on the device already.
        found = [
            self.clients[client]
            .activations_of(share - self._starts[client], self.round)
            .to(self.device, non_blocking=True)
            for client, share in shares
        ]
        return found[0] if len(found) == 1 else torch.cat(found)
