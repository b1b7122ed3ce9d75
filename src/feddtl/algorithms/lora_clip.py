"""CLIP with LoRA in the last blocks of both towers: what FedDTL and FedLoRA have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from feddtl.algorithms.base import ClientData, Task
from feddtl.algorithms.naming import under
from feddtl.config import LoraConfig
from feddtl.models.clip import Clip, prompts_for
from feddtl.models.lora import Lora, Tensors, init_factors


class LoraClip:
    """The frozen CLIP of a task with the places where its adapters go.

    Factors are keyed 'visual/<layer>…' and 'text/<layer>…'.
    """

    def __init__(self, task: Task, config: LoraConfig) -> None:
        self.clip = task.clip
        self.first_image_block = task.clip.image.stack.resolve(config.first_image_block, "lora.first_image_block")
        self.first_text_block = task.clip.text.stack.resolve(config.first_text_block, "lora.first_text_block")
        self.device = task.clip.image.device
        self._task = task
        self._config = config
        # Below the first adapted text block nothing changes: (C, S, d), and the ends of text (C,).
        self._text_activations, self._text_ends = frozen_text(
            task.clip, task.class_names, task.prompt_template, self.first_text_block
        )

    def init_factors(self) -> Tensors:
        """Fresh factors of both towers; B = 0, so the model is the pre-trained one."""
        config, seed = self._config, self._task.seed
        image = self.clip.image.stack.layer_shapes(self.first_image_block, config.target_names)
        text = self.clip.text.stack.layer_shapes(self.first_text_block, config.target_names)
        return {
            **under("visual", init_factors(image, config.rank, seed)),
            **under("text", init_factors(text, config.rank, seed)),
        }

    def lora(self, factors: Mapping[str, Tensor]) -> Lora:
        """Factors of one tower, without their group, as an adapter on the model's device."""
        return Lora({name: tensor.to(self.device) for name, tensor in factors.items()}, self._config.scaling)

    def encode_text(self, factors: Mapping[str, Tensor]) -> Tensor:
        """Unit text embeddings (C, e) of the task's classes."""
        lora = self.lora(factors)
        features = self.clip.text.features(self._text_activations, self._text_ends, self.first_text_block, lora)
        return normalize(features, dim=-1)

    def encode_images(self, data: ClientData, positions: Tensor, factors: Mapping[str, Tensor]) -> Tensor:
        """Projected features (B, e), before normalisation, of a client's images at these positions."""
        hidden = data.activations[positions.to(data.activations.device)].to(self.device, torch.float32)
        return self.clip.image.features(hidden, self.first_image_block, self.lora(factors))

    def classifier(self, visual: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> LoraClassifier:
        """Classifier with these factors in the two towers."""
        template, blocks = self._task.prompt_template, (self.first_image_block, self.first_text_block)
        return LoraClassifier(self.clip, template, *blocks, self.lora(visual), self.lora(text))


@dataclass(frozen=True)
class LoraClassifier:
    """CLIP with adapters in either tower; `None` is the pre-trained tower.

    Attributes:
        clip: The frozen model.
        prompt_template: Text with `{class}` in it.
        first_image_block: Block whose input `image_features` takes.
        first_text_block: Any block up to the first adapted one.
        image_lora: Adapter of the image tower.
        text_lora: Adapter of the text tower.
    """

    clip: Clip
    prompt_template: str
    first_image_block: int
    first_text_block: int
    image_lora: Lora | None = None
    text_lora: Lora | None = None

    @torch.no_grad()
    def image_features(self, activations: Tensor) -> Tensor:
        """Unit image embeddings (B, e) from activations (B, S, d)."""
        return normalize(self.clip.image.features(activations, self.first_image_block, self.image_lora), dim=-1)

    @torch.no_grad()
    def text_embeddings(self, class_names: Sequence[str]) -> Tensor:
        """Unit text embeddings (C, e)."""
        hidden, ends = frozen_text(self.clip, class_names, self.prompt_template, self.first_text_block)
        return normalize(self.clip.text.features(hidden, ends, self.first_text_block, self.text_lora), dim=-1)


@torch.no_grad()
def frozen_text(clip: Clip, class_names: Sequence[str], template: str, stop: int) -> tuple[Tensor, Tensor]:
    """Input of text block `stop`, (C, S, d), and each end of text, (C,)."""
    ids, ends = clip.text.tokenize(prompts_for(class_names, template))
    return clip.text.stack.run(clip.text.embed(ids), 0, stop=stop), ends
