"""FedMaPLe: prompts in both towers, the visual ones mapped from the textual ones, averaged by FedAvg.

MaPLe is Khattak et al., CVPR 2023, arXiv 2210.03117. The text prompt is `[start] v_1 v_2 of a {class}. [end]` with v
starting at the token embeddings of "a photo". A linear map turns v into as many visual tokens behind the patches. Each
of the first 9 blocks has such a pair and a map of its own; from the second block on they replace what the block before
made of the earlier ones. Contexts and maps are trained and sent.

Choices: the first visual prompts pass the norm behind the embeddings, as patches do; a tower with fewer blocks than
`fedmaple.depth` has prompts in all of them, and both towers use the smaller depth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import linear

from feddtl.config import TrainingSettings
from feddtl.methods.base import Method
from feddtl.methods.fedmaple.settings import FedMaPLeSettings
from feddtl.methods.linear_layers import initial_linear
from feddtl.methods.task import Task
from feddtl.models.image_tower import ImageTower
from feddtl.models.lora import Tensors
from feddtl.models.text_tower import TextTower, prompts_for
from feddtl.seeding import torch_generator


class FedMaPLe(Method):
    """Federated averaging of coupled prompts."""

    Settings = FedMaPLeSettings
    settings: FedMaPLeSettings
    learns_prompts: ClassVar[bool] = True

    def __init__(self, task: Task, settings: Any, training: TrainingSettings) -> None:
        super().__init__(task, settings, training)
        self.first_image_block = 0
        stacks = (task.clip.image.stack, task.clip.text.stack)
        self._depth = min(settings.depth, *map(len, stacks))
        self._template = f"{settings.initial_text.strip()} of a {{class}}."
        words = task.clip.text.embed_words(settings.initial_text.strip())
        self._initial = words.detach().cpu().clone()  # (n, d_text)

    @property
    def images_per_pass(self) -> int:
        """Images that one pass holds, with the prompts behind their patches."""
        image = self.clip.image
        return image.stack.sequences_per_pass(image.tokens + len(self._initial))

    def initial_shared(self) -> Tensors:
        """By block: `text.<i>` (n, d_text), and the map `map.<i>.weight` (d_image, d_text) with its bias.

        The first map is drawn by itself; those of the deeper blocks start as copies of one.
        """
        text, image, seed = self.clip.text, self.clip.image, self.task.seed
        tensors = {"text.0": self._initial.clone(), **initial_linear("map.0", image.width, text.width, seed)}
        deeper = initial_linear("map.1", image.width, text.width, seed)
        for block in range(1, self._depth):
            drawn = torch.randn(self._initial.shape, generator=torch_generator(seed, "fedmaple", block))
            tensors[f"text.{block}"] = self.settings.init_std * drawn
            tensors |= {f"map.{block}.{part}": deeper[f"map.1.{part}"].clone() for part in ("weight", "bias")}
        return tensors

    def image_features(self, tensors: Mapping[str, Tensor], activations: Tensor) -> Tensor:
        """Projected features (B, e) from the input of block 0, (B, S, d), with prompts behind the patches."""
        prompts = [
            linear(tensors[f"text.{block}"], tensors[f"map.{block}.weight"], tensors[f"map.{block}.bias"])
            for block in range(self._depth)
        ]
        image = self.clip.image
        hidden = self._walk(image, image.with_prompts(activations, prompts[0]), image.replace_prompts, prompts)
        return image.features(hidden, self._depth - 1)

    def text_features(self, tensors: Mapping[str, Tensor], class_names: Sequence[str]) -> Tensor:
        """Projected features (C, e) of the names behind the contexts."""
        text = self.clip.text
        contexts = [tensors[f"text.{block}"] for block in range(self._depth)]
        names = prompts_for(class_names, self._template)
        hidden, positions = text.with_context(names, contexts[0], instead_of=len(self._initial))
        hidden = self._walk(text, hidden, text.replace_context, contexts)
        return text.features(hidden, positions, self._depth - 1)

    def _walk(
        self,
        tower: ImageTower | TextTower,
        hidden: Tensor,
        replace: Callable[[Tensor, Tensor], Tensor],
        prompts: Sequence[Tensor],
    ) -> Tensor:
        """Input of the last block with prompts, from that of block 0; each block gets prompts (n, d) of its own."""
        for block in range(1, self._depth):
            hidden = replace(tower.stack.run(hidden, block - 1, stop=block), prompts[block])
        return hidden
