"""CLIP's weights in plain modules, without transformers: for a process that needs one tower, and needs it soon.

Names, shapes and order of the weights are those of transformers' CLIPModel. The towers walk them block by block
themselves, so nothing here computes but the activation function.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from feddtl.models.blocks import aligned

Tower = Literal["image", "text"]
BOTH_TOWERS: frozenset[Tower] = frozenset(("image", "text"))
# How names of a tower's weights begin in CLIPModel's state dict.
PARTS: dict[Tower, tuple[str, str]] = {
    "image": ("vision_model.", "visual_projection."),
    "text": ("text_model.", "text_projection."),
}
LOGIT_SCALE = "logit_scale"
# Matrices that the towers multiply by as they lie in memory; `freeze` lays out those of the blocks.
MULTIPLIED_BY = ("visual_projection.weight", "text_projection.weight", "vision_model.embeddings.patch_embedding.weight")


# The weights come from files. To draw random ones on the 'meta' device would import torch's compiler for seconds.
class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        pass


class _Conv2d(nn.Conv2d):
    def reset_parameters(self) -> None:
        pass


class _Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        pass


class QuickGELUActivation(nn.Module):
    """x · sigmoid(1.702 x)."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Elementwise."""
        return inputs * torch.sigmoid(1.702 * inputs)


ACTIVATIONS: dict[str, type[nn.Module]] = {"quick_gelu": QuickGELUActivation, "gelu": nn.GELU}


class ClipModules(nn.Module):
    """A CLIP without weights: all tensors are on the 'meta' device, which knows their shapes alone.

    Args:
        config: CLIPConfig of transformers as a dictionary; one that `is_plain`.
        name: Hub id or folder.
    """

    def __init__(self, config: Mapping[str, Any], name: str) -> None:
        super().__init__()
        vision, text = (SimpleNamespace(**config[part]) for part in ("vision_config", "text_config"))
        self.config = SimpleNamespace(vision_config=vision, text_config=text)
        self.name_or_path = name
        joint = config["projection_dim"]
        with torch.device("meta"):
            self.logit_scale = nn.Parameter(torch.empty(()))
            self.text_model = _TextModel(text)
            self.vision_model = _VisionModel(vision)
            self.visual_projection = _Linear(vision.hidden_size, joint, bias=False)
            self.text_projection = _Linear(text.hidden_size, joint, bias=False)

    def names_of(self, towers: Collection[Tower]) -> list[str]:
        """Names of the weights of some towers, and of the logit scale."""
        parts = tuple(part for tower in towers for part in PARTS[tower])
        return [name for name in self.state_dict() if name.startswith((*parts, LOGIT_SCALE))]

    def hold(self, weights: Mapping[str, Tensor], device: torch.device) -> None:
        """Take frozen weights by name; what is not among them stays a shape."""
        self.load_state_dict({name: w.to(device) for name, w in weights.items()}, strict=False, assign=True)
        self.eval().requires_grad_(False)


def align(model: nn.Module) -> None:
    """Put the matrices outside of a CLIP's blocks where torch would have put them; see `aligned`."""
    for name in MULTIPLIED_BY:
        parameter = model.get_parameter(name)
        parameter.data = aligned(parameter.data)


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether `ClipModules` can hold a CLIP of this configuration."""
    return all(config[part]["hidden_act"] in ACTIVATIONS for part in ("vision_config", "text_config"))


class _VisionModel(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = _Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class _VisionEmbeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.num_positions = (config.image_size // patch) ** 2 + 1
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.patch_embedding = _Conv2d(config.num_channels, width, kernel_size=patch, stride=patch, bias=False)
        self.position_embedding = _Embedding(self.num_positions, width)


class _TextModel(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embeddings = _TextEmbeddings(config)
        self.encoder = _Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class _TextEmbeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.token_embedding = _Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = _Embedding(config.max_position_embeddings, config.hidden_size)


class _Encoder(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.num_hidden_layers))


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
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (_Linear(width, width) for _ in range(4))


class _Mlp(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.activation_fn = ACTIVATIONS[config.hidden_act]()
        self.fc1 = _Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = _Linear(config.intermediate_size, config.hidden_size)
