"""What travels between the server and its clients, and what the server keeps between rounds: named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from feddtl.models.lora import Tensors


@dataclass(frozen=True)
class ServerState:
    """Everything the server keeps between two rounds.

    Attributes:
        round: Rounds done.
        tensors: Named tensors; maps one to one onto a safetensors file.
    """

    round: int
    tensors: Tensors


@dataclass(frozen=True)
class Payload:
    """What the server broadcasts for a round.

    Attributes:
        round: The round it opens, from 1.
        tensors: Named tensors.
    """

    round: int
    tensors: Tensors


@dataclass(frozen=True)
class Update:
    """What a client returns.

    Attributes:
        client: Id from 0.
        num_images: Training images N_k.
        weights: Tensors that may be summed over clients (adapters): secure aggregation can hide them.
        samples: Tensors with a row per image (embeddings, labels): summing them makes no sense.
        metrics: Scalars for the log.
        personal: Tensors that stay on the client until its next round; never uplink traffic.
    """

    client: int
    num_images: int
    weights: Tensors
    samples: Tensors = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    personal: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class Aggregate:
    """The updates of a round as one.

    Attributes:
        tensors: By their name in `Update.weights`.
        shares: How much each update counted, in their order; they sum to 1.
    """

    tensors: Tensors
    shares: Sequence[float] = ()


@dataclass(frozen=True)
class ExpectedUpdate:
    """What an update that answers a broadcast must look like, for whoever receives it from elsewhere.

    Attributes:
        weights: Tensors of the expected shapes and types, by their name in `Update.weights`; before any transform,
            those that the client started from.
        embeddings: Width of a row of each tensor of `Update.samples` whose rows are unit vectors.
        labels: Names in `Update.samples` of tensors (n,) of base-class ids.
        embedding_type: Type of the embeddings.
    """

    weights: Tensors
    embeddings: Mapping[str, int] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    embedding_type: torch.dtype = torch.float32


def count_parameters(tensors: Mapping[str, Tensor]) -> int:
    """Numbers in named tensors, without integers, which nobody trains."""
    return sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())


def tensor_bytes(*groups: Mapping[str, Tensor]) -> int:
    """Bytes of named tensors on the wire, without framing."""
    return sum(tensor.numel() * tensor.element_size() for group in groups for tensor in group.values())
