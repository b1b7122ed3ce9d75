"""FedMaPLe: prompts in both towers, the visual ones mapped from the textual ones, averaged by FedAvg.

MaPLe is Khattak et al., CVPR 2023, arXiv 2210.03117. The text prompt is `[start] v_1 v_2 of a {class}. [end]` with v
starting at the token embeddings of "a photo". A linear map turns v into as many visual tokens behind the patches. Each
of the first 9 blocks has such a pair and a map of its own; from the second block on they replace what the block before
made of the earlier ones. Contexts and maps are trained and sent.

Choices: the first visual prompts pass the norm behind the embeddings, as patches do; a tower with fewer blocks than
`fedmaple.depth` has prompts in all of them, and both towers use the smaller depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from feddtl.config import Experiment
from feddtl.methods.averaging import FederatedAveraging
from feddtl.methods.base import Task
from feddtl.methods.linear_layers import initial_linear
from feddtl.models.clip import prompts_for
from feddtl.models.image_tower import class_tokens
from feddtl.models.lora import Tensors
from feddtl.models.towers import BlockStack
from feddtl.seeding import torch_generator


class FedMaPLe(FederatedAveraging):
    """Federated averaging of coupled prompts."""

    def __init__(self, task: Task, experiment: Experiment) -> None:
        super().__init__(task, experiment)
        self.first_image_block = 0
        stacks = (task.clip.image.stack, task.clip.text.stack)
        self._depth = min(experiment.fedmaple.depth, *map(len, stacks))
        self._template = f"{experiment.fedmaple.initial_text.strip()} of a {{class}}."
        ids, ends = task.clip.text.tokenize([experiment.fedmaple.initial_text.strip()])
        self._initial_ids = ids[:, 1 : int(ends[0])]  # (1, n), without start and end of text

    @property
    def images_per_pass(self) -> int:
        """Images that one pass holds, with the prompts behind their patches."""
        image = self.clip.image
        return image.stack.sequences_per_pass(image.tokens + self._initial_ids.shape[1])

    def initial_shared(self) -> Tensors:
        """By block: `text.<i>` (n, d_text), and the map `map.<i>.weight` (d_image, d_text) with its bias."""
        text, image, seed = self.clip.text, self.clip.image, self.task.seed
        first = text.embed_tokens(self._initial_ids)[0].detach().cpu().clone()  # (n, d_text)
        tensors = {"text.0": first}
        for block in range(self._depth):
            tensors |= initial_linear(f"map.{block}", image.width, text.width, seed)
            if block:
                drawn = torch.randn(first.shape, generator=torch_generator(seed, "fedmaple", block))
                tensors[f"text.{block}"] = self.experiment.fedmaple.init_std * drawn
        return tensors

    def image_features(self, tensors: Mapping[str, Tensor], activations: Tensor) -> Tensor:
        """Projected features (B, e) from the input of block 0, (B, S, d), with prompts behind the patches."""
        prompts = [
            linear(tensors[f"text.{block}"], tensors[f"map.{block}.weight"], tensors[f"map.{block}.bias"])
            for block in range(self._depth)
        ]
        image = self.clip.image
        first = image.embed_prompts(prompts[0])
        hidden = torch.cat([activations.to(first.dtype), first.expand(len(activations), -1, -1)], dim=1)
        token = self._walk(image.stack, hidden, prompts, activations.shape[1], class_tokens(hidden))
        return image.project(token)

    def text_features(self, tensors: Mapping[str, Tensor], class_names: Sequence[str]) -> Tensor:
        """Projected features (C, e) of the names behind the contexts."""
        text = self.clip.text
        ids, ends = text.tokenize(prompts_for(class_names, self._template))
        count = self._initial_ids.shape[1]
        # The start of text, then the names without the tokens in whose place the contexts stand.
        hidden = text.embed_context(torch.cat([ids[:, :1], ids[:, 1 + count :]], dim=1), tensors["text.0"])
        contexts = [tensors[f"text.{block}"] for block in range(self._depth)]
        return text.project(self._walk(text.stack, hidden, contexts, 1, ends))

    def _walk(
        self, stack: BlockStack, hidden: Tensor, prompts: Sequence[Tensor], position: int, rows: Tensor
    ) -> Tensor:
        """Token (B, d) at rows (B,) after all blocks of (B, S, d), each block's prompts (n, d) put at `position`."""
        for block in range(1, self._depth):
            hidden = with_prompts(stack.run(hidden, block - 1, stop=block), prompts[block], position)
        return stack.run_to_rows(hidden, self._depth - 1, rows)


def with_prompts(hidden: Tensor, prompts: Tensor, position: int) -> Tensor:
    """(B, S, d) with prompts (n, d) in place of the tokens from `position` on."""
    placed = prompts.to(hidden.dtype).expand(len(hidden), -1, -1)
    return torch.cat([hidden[:, :position], placed, hidden[:, position + len(prompts) :]], dim=1)
