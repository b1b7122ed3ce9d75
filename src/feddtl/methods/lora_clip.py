"""CLIP with LoRA in the last blocks of both towers: what FedDTL and FedLoRA have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import normalize

from feddtl.config import LoraConfig
from feddtl.methods.base import Task
from feddtl.models.backbone import Backbone
from feddtl.models.lora import Lora, Tensors, grouped, init_factors
from feddtl.models.text_tower import prompts_for
from feddtl.tensor_groups import add_prefix
from feddtl.training.client_data import ClientData
from feddtl.training.policy import Policy

# (factors of each owner, activations (B, S, d), owners (B,)) -> projected features (B, e)
ImageEncoding = Callable[[Sequence[Mapping[str, Tensor]], Tensor, Tensor], Tensor]

# The factors of all of them take part in every low-rank product: at 16 clients of rank 4 that is the cost of rank 64.
MAX_CLIENTS_TOGETHER = 16


class LoraClip:
    """The frozen CLIP of a task with the places where its adapters go.

    Factors are keyed 'image/<layer>…' and 'text/<layer>…'.
    """

    def __init__(self, task: Task, config: LoraConfig) -> None:
        self.clip = task.clip
        self.first_image_block = task.clip.image.stack.resolve(config.first_image_block, "lora.first_image_block")
        self.first_text_block = task.clip.text.stack.resolve(config.first_text_block, "lora.first_text_block")
        self.device = task.clip.image.device
        self._task = task
        self._config = config

    @cached_property
    def _frozen_text(self) -> tuple[Tensor, Tensor]:
        """Below the first adapted text block nothing changes: (C, S, d), and positions (C,).

        Where nobody encodes text, as on a client of FedDTL, there need not be a text tower.
        """
        return frozen_text(self.clip, self._task.class_names, self._task.prompt_template, self.first_text_block)

    def init_factors(self) -> Tensors:
        """Fresh factors of both towers; B = 0, so the model is the pre-trained one."""
        config, seed = self._config, self._task.seed
        image = self.clip.image.stack.layer_shapes(self.first_image_block, config.target_names)
        text = self.clip.text.stack.layer_shapes(self.first_text_block, config.target_names)
        return {
            **add_prefix("image", init_factors(image, config.rank, seed)),
            **add_prefix("text", init_factors(text, config.rank, seed)),
        }

    def lora(self, factors: Mapping[str, Tensor]) -> Lora:
        """Factors of one tower, without their group, as an adapter on the model's device."""
        return Lora({name: tensor.to(self.device) for name, tensor in factors.items()}, self._config.scaling)

    def encode_text(self, *factors: Mapping[str, Tensor]) -> Tensor:
        """Unit text embeddings (K, C, e) of the task's classes under each of K sets of factors."""
        (hidden, positions), count = self._frozen_text, len(factors)
        classes = len(positions)
        owners = torch.arange(count, device=self.device).repeat_interleave(classes)
        adapter = grouped([self.lora(own) for own in factors], owners)
        features = self.clip.text.features(
            hidden.repeat(count, 1, 1), positions.repeat(count), self.first_text_block, adapter
        )
        return normalize(features, dim=-1).view(count, classes, -1)

    def encode_images(self, factors: Sequence[Mapping[str, Tensor]], activations: Tensor, owners: Tensor) -> Tensor:
        """Projected features (B, e), before normalisation, each image under the factors of its owner, (B,)."""
        adapter = grouped([self.lora(own) for own in factors], owners.to(self.device, non_blocking=True))
        return self.clip.image.features(activations, self.first_image_block, adapter)

    def policy(
        self,
        clients: Sequence[ClientData],
        round_number: int,
        features: ImageEncoding,
        text_embeddings: Callable[[Sequence[Mapping[str, Tensor]]], Tensor],
    ) -> Policy:
        """The model on the images of some clients; see `Policy`."""
        return Policy(
            clients,
            round_number,
            features,
            text_embeddings,
            self.clip.logit_scale,
            self.clip.image.feature_width,
            self.device,
            self.clip.image.images_per_pass,
        )

    def clients_together(self, batch_size: int) -> int:
        """Clients whose batches fill one pass; where a single batch fills it, steps together save nothing.

        Nor do they on a CPU in float32, where the larger product costs more in caches than it saves in calls.
        """
        if self.device.type == "cpu" and self.clip.image.precision != torch.bfloat16:
            return 1
        return max(1, min(MAX_CLIENTS_TOGETHER, self.clip.image.images_per_pass // batch_size))

    def classifier(self, image: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> LoraClassifier:
        """Classifier with these factors in the two towers."""
        template, blocks = self._task.prompt_template, (self.first_image_block, self.first_text_block)
        return LoraClassifier(self.clip, template, *blocks, self.lora(image), self.lora(text))


@dataclass(frozen=True)
class LoraClassifier:
    """CLIP with adapters in either tower; `None` is the pre-trained tower.

    Attributes:
        clip: The frozen model.
        prompt_template: Text with `{class}` in it.
        first_image_block: Block whose input `image_features` takes.
        first_text_block: Any block up to the first adapted one; the number of blocks where none is.
        image_lora: Adapter of the image tower.
        text_lora: Adapter of the text tower.
    """

    clip: Backbone
    prompt_template: str
    first_image_block: int
    first_text_block: int
    image_lora: Lora | None = None
    text_lora: Lora | None = None

    @property
    def images_per_pass(self) -> int:
        """See `ImageTower.images_per_pass`."""
        return self.clip.image.images_per_pass

    @torch.no_grad()
    def image_features(self, activations: Tensor) -> Tensor:
        """Unit image embeddings (B, e) from activations (B, S, d)."""
        return normalize(self.clip.image.features(activations, self.first_image_block, self.image_lora), dim=-1)

    @torch.no_grad()
    def text_embeddings(self, class_names: Sequence[str]) -> Tensor:
        """Unit text embeddings (C, e)."""
        hidden, positions = frozen_text(self.clip, class_names, self.prompt_template, self.first_text_block)
        return normalize(self.clip.text.features(hidden, positions, self.first_text_block, self.text_lora), dim=-1)


@torch.no_grad()
def frozen_text(clip: Backbone, class_names: Sequence[str], template: str, stop: int) -> tuple[Tensor, Tensor]:
    """Input of text block `stop`, (C, S, d), and positions (C,); see `TextTower.prefix`."""
    return clip.text.prefix(tuple(prompts_for(class_names, template)), stop)
