"""Transformer blocks in plain modules, without transformers: for a process that needs one tower, and needs it soon.

Names, shapes and order of the weights are those of the encoders that transformers gives CLIP, SigLIP and their kin. The
towers walk them block by block themselves, so nothing here computes but the activation function.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from feddtl.models.blocks import aligned


# The weights come from files. To draw random ones on the 'meta' device would import torch's compiler for seconds.
class PlainLinear(nn.Linear):
    """A linear layer that is not initialised."""

    def reset_parameters(self) -> None:
        """Nothing."""


class PlainConv2d(nn.Conv2d):
    """A convolution that is not initialised."""

    def reset_parameters(self) -> None:
        """Nothing."""


class PlainEmbedding(nn.Embedding):
    """A table of embeddings that is not initialised."""

    def reset_parameters(self) -> None:
        """Nothing."""


class QuickGELUActivation(nn.Module):
    """x · sigmoid(1.702 x)."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Elementwise."""
        return inputs * torch.sigmoid(1.702 * inputs)


# By `hidden_act` of a configuration of transformers.
ACTIVATIONS: dict[str, type[nn.Module]] = {"quick_gelu": QuickGELUActivation, "gelu": nn.GELU}


class Encoder(nn.Module):
    """All blocks of a tower. Its configuration is that of one tower in transformers."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.num_hidden_layers))


def hold(model: nn.Module, weights: Mapping[str, Tensor], device: torch.device) -> None:
    """Give a model frozen weights by name; what is not among them stays a shape."""
    model.load_state_dict({name: w.to(device) for name, w in weights.items()}, strict=False, assign=True)
    model.eval().requires_grad_(False)


def align(model: nn.Module, names: Collection[str]) -> None:
    """Put matrices outside of a model's blocks where torch would have put them; see `aligned`."""
    for name in names:
        parameter = model.get_parameter(name)
        parameter.data = aligned(parameter.data)


class _Block(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.self_attn = _Attention(config.hidden_size)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = _Mlp(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (PlainLinear(width, width) for _ in range(4))


class _Mlp(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.activation_fn = ACTIVATIONS[config.hidden_act]()
        self.fc1 = PlainLinear(config.hidden_size, config.intermediate_size)
        self.fc2 = PlainLinear(config.intermediate_size, config.hidden_size)
