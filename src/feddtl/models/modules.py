"""Transformer blocks as plain modules, without transformers: for a process that needs one tower, and needs it soon.

Names, shapes and order of the weights are those of the encoders that transformers builds for CLIP, SigLIP and similar
models. The towers walk the blocks themselves, so nothing here computes except the activation function.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from feddtl.models.blocks import aligned


class _NotInitialised:
    """The weights come from files, and drawing random ones on the 'meta' device would import torch's compiler."""

    def reset_parameters(self) -> None:
        pass


class PlainLinear(_NotInitialised, nn.Linear):
    """A linear layer that is not initialised."""


class PlainConv2d(_NotInitialised, nn.Conv2d):
    """A convolution that is not initialised."""


class PlainEmbedding(_NotInitialised, nn.Embedding):
    """A table of embeddings that is not initialised."""


class QuickGELUActivation(nn.Module):
    """x · sigmoid(1.702 x)."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Elementwise."""
        return inputs * torch.sigmoid(1.702 * inputs)


# By `hidden_act` of a configuration of transformers.
ACTIVATIONS: dict[str, type[nn.Module]] = {"quick_gelu": QuickGELUActivation, "gelu": nn.GELU}


def plain_norm(config: Any) -> nn.LayerNorm:
    """A layer norm of a tower. `config` is that of the tower in transformers."""
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


def plain_encoder(config: Any) -> nn.ModuleDict:
    """All blocks of a tower, as `layers`. `config` is that of the tower in transformers."""
    return nn.ModuleDict({"layers": nn.ModuleList(_block(config) for _ in range(config.num_hidden_layers))})


def _block(config: Any) -> nn.ModuleDict:
    width, inner = config.hidden_size, config.intermediate_size
    attention = {name: PlainLinear(width, width) for name in ("k_proj", "v_proj", "q_proj", "out_proj")}
    mlp = {
        # Whoever computes with these modules looks first whether the function is known.
        "activation_fn": ACTIVATIONS.get(config.hidden_act, nn.Identity)(),
        "fc1": PlainLinear(width, inner),
        "fc2": PlainLinear(inner, width),
    }
    return nn.ModuleDict(
        {
            "self_attn": nn.ModuleDict(attention),
            "layer_norm1": plain_norm(config),
            "mlp": nn.ModuleDict(mlp),
            "layer_norm2": plain_norm(config),
        }
    )


def assign_weights(model: nn.Module, weights: Mapping[str, Tensor], device: torch.device) -> None:
    """Give a model frozen weights by name; the others stay on the 'meta' device."""
    model.load_state_dict({name: w.to(device) for name, w in weights.items()}, strict=False, assign=True)
    model.eval().requires_grad_(False)


def align(model: nn.Module, names: Collection[str]) -> None:
    """Move matrices outside of a model's blocks to addresses that torch would have chosen; see `aligned`."""
    for name in names:
        parameter = model.get_parameter(name)
        parameter.data = aligned(parameter.data)
