"""CLIP on the images of one or several clients, as a function of their tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from feddtl.objectives.supervised import clip_logits
from feddtl.training.client_data import ClientData
from feddtl.training.local import Batch

ClientTensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Microbatch:
    """Rows that go through the model together.

    Attributes:
        rows: (R,) rows of the policy's images.
        parts: (R,) part of a step, or client, to which each row belongs; sorted.
    """

    rows: Tensor
    parts: Tensor

    @property
    def first(self) -> int:
        """The first part in it."""
        return int(self.parts[0])

    @property
    def counts(self) -> list[int]:
        """Rows of each part in it; parts follow one another without a gap."""
        return torch.bincount(self.parts - self.parts[0]).tolist()


class Policy:
    """The model on the joint images of some clients, client after client.

    Args:
        clients: Whose images; their rows follow one another.
        round_number: The round, which decides the view of each image.
        features: (tensors of each part, activations (R, S, d), part of each row (R,)) -> (R, e) projected features
            before normalisation.
        text_embeddings: Adapters of each part -> (parts, C, e) unit rows, or (1, C, e) where all share them.
        logit_scale: s.
        feature_width: e.
        device: Where it computes.
        rows_per_pass: Images that one pass should hold.
    """

    def __init__(
        self,
        clients: Sequence[ClientData],
        round_number: int,
        features: Callable[[Sequence[ClientTensors], Tensor, Tensor], Tensor],
        text_embeddings: Callable[[Sequence[ClientTensors]], Tensor],
        logit_scale: float,
        feature_width: int,
        device: torch.device,
        rows_per_pass: int,
    ) -> None:
        self._clients = clients
        self._round = round_number
        self._features = features
        self.text_embeddings = text_embeddings
        self.logit_scale = logit_scale
        self.feature_width = feature_width
        self.labels = torch.cat([data.labels for data in clients]).to(device)
        self.device = device
        self._rows_per_pass = rows_per_pass
        self._starts = torch.tensor([0, *accumulate(len(data) for data in clients)])

    def rows_of(self, client: int) -> range:
        """Rows of the client at this position."""
        return range(int(self._starts[client]), int(self._starts[client + 1]))

    def microbatches(self, batches: Sequence[Batch]) -> list[Microbatch]:
        """The rows of all batches, cut evenly into as few passes as fit; part i is batches[i]."""
        rows = torch.cat([batch.rows for batch in batches])
        sizes = torch.tensor([len(batch.rows) for batch in batches])
        parts = torch.repeat_interleave(torch.arange(len(batches)), sizes)
        passes = -(-len(rows) // self._rows_per_pass)
        return [Microbatch(*pair) for pair in zip(rows.tensor_split(passes), parts.tensor_split(passes), strict=True)]

    def features(self, tensors: Sequence[ClientTensors], microbatch: Microbatch) -> Tensor:
        """(R, e) projected features; tensors of each part, or one mapping for all."""
        if len(tensors) == 1:
            return self._features(tensors, self._activations(microbatch.rows), torch.zeros_like(microbatch.parts))
        present = tensors[microbatch.first : microbatch.first + len(microbatch.counts)]
        return self._features(present, self._activations(microbatch.rows), microbatch.parts - microbatch.first)

    def logits(self, features: Tensor, text: Tensor, microbatch: Microbatch) -> Tensor:
        """(R, C) from features (R, e) and text embeddings (parts, C, e) or (1, C, e)."""
        if len(text) == 1:
            return clip_logits(features, text[0], self.logit_scale)
        shares = zip(torch.split(features, microbatch.counts), text[microbatch.first :], strict=False)
        return torch.cat([clip_logits(share, own, self.logit_scale) for share, own in shares])

    @torch.no_grad()
    def all_features(self, tensors: Sequence[ClientTensors], clients: Sequence[int] | None = None) -> Tensor:
        """Features of all images of some clients (all by default), (N, e); one adapter each, or one for all."""
        return torch.cat(
            [self.features(tensors, microbatch) for microbatch in self.microbatches(self._everything(clients))]
        )

    @torch.no_grad()
    def all_log_probs(self, tensors: Sequence[ClientTensors]) -> Tensor:
        """(N, C) log π(c|x) of all images; one adapter for each client, or one for all."""
        text = self.text_embeddings(tensors)
        logits = [
            self.logits(self.features(tensors, microbatch), text, microbatch)
            for microbatch in self.microbatches(self._everything())
        ]
        return torch.cat(logits).log_softmax(dim=-1)

    def _everything(self, clients: Sequence[int] | None = None) -> list[Batch]:
        chosen = range(len(self._clients)) if clients is None else clients
        return [Batch(client, torch.tensor(self.rows_of(client))) for client in chosen]

    def _activations(self, rows: Tensor) -> Tensor:
        """(R, S, d) on the device; rows of one client stand together."""
        owners = torch.bucketize(rows, self._starts, right=True) - 1
        clients, counts = torch.unique_consecutive(owners, return_counts=True)
        shares = zip(clients.tolist(), torch.split(rows, counts.tolist()), strict=True)
        # Some of the clients' rows may be on the device already.
        found = [
            self._clients[client].rows(share - self._starts[client], self._round).to(self.device, non_blocking=True)
            for client, share in shares
        ]
        return found[0] if len(found) == 1 else torch.cat(found)
