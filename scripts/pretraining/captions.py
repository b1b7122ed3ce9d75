"""Class names in many wordings, as tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

PROMPT = "a photo of a {}."
TEMPLATES = (
    PROMPT, "a photo of a {}", "a photo of the {}.", "a photo of one {}.", "a picture of a {}.", "an image of a {}.",
    "a {}", "a {}.", "the {}.", "{}", "this is a {}.", "there is a {} in the photo.", "a photo of a small {}.",
    "a photo of a large {}.", "a small photo of a {}.", "a blurred photo of a {}.", "a dark photo of a {}.",
    "a bright photo of the {}.", "a coarse photo of the {}.", "a close view of a {}.", "a cropped photo of a {}.",
    "a good photo of the {}.", "a color photo of a {}.", "a {} seen from the side.", "a {} outdoors.",
    "a photo of a {} on a plain ground.", "a snapshot of a {}.", "a thumbnail of a {}.",
)  # fmt: skip


@dataclass(frozen=True)
class Captions:
    """Every class name in every wording.

    Attributes:
        ids: (T, C, S) token ids of T wordings of C names, padded to the longest.
        mask: (T, C, S) 1 for a token, 0 for padding.
    """

    ids: Tensor
    mask: Tensor

    def one_each(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(C, S) token ids and mask of one caption per class, each in its own wording."""
        wordings, classes = self.ids.shape[:2]
        at = torch.randint(wordings, (classes,), generator=generator).to(self.ids.device)
        names = torch.arange(classes, device=self.ids.device)
        return self.ids[at, names], self.mask[at, names]


def texts(class_names: tuple[str, ...], templates: tuple[str, ...] = TEMPLATES) -> list[str]:
    """All names in the first wording, then all in the second, and so on."""
    return [template.format(name) for template in templates for name in class_names]


def tokenize(
    tokenizer: PreTrainedTokenizerFast,
    class_names: tuple[str, ...],
    templates: tuple[str, ...],
    device: torch.device,
) -> Captions:
    """Captions of these names in these wordings."""
    rows = tokenizer(texts(class_names, templates), padding=True, return_tensors="pt").to(device)
    shape = (len(templates), len(class_names), -1)
    return Captions(rows["input_ids"].view(shape), rows["attention_mask"].view(shape))
