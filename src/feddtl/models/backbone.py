"""A pre-trained model with an image tower and a text tower, as the rest of the code knows it.

`feddtl.backbones` contains the families of models. Losses, methods and runtimes use their towers through `ImageTower`
and `TextTower` and know neither tokens nor masks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from feddtl.models.digests import Digests, digests_in_memory, joint_digest
from feddtl.models.image_tower import ImageTower
from feddtl.models.kernels import Kernels
from feddtl.models.preprocess import pixel_settings
from feddtl.models.text_tower import TextTower
from feddtl.storage import new_folder

Tower = Literal["image", "text"]
BOTH_TOWERS: frozenset[Tower] = frozenset(("image", "text"))


@dataclass(frozen=True)
class Backbone:
    """A frozen pre-trained model.

    Attributes:
        source: Hub id or folder it came from.
        image: The image tower.
        text: The text tower.
        logit_scale: s, the factor of cosines before the softmax (about 100 in OpenAI's CLIP). A bias on the logits is
            not needed, since softmax is the same with and without it.
        model: The underlying module, for export. It has weights only for the loaded towers.
        tokenizer: For export; None without the text tower.
        processor: Image processor, for export; None if single towers were requested.
        digests: Hashes of its weights, including those that are not loaded; None: computed from those in memory.
        tokenizer_digest: Returns the hash of its tokenizer, loaded or not; None: unknown.
    """

    source: str
    image: ImageTower
    text: TextTower
    logit_scale: float
    model: Any
    tokenizer: Any
    processor: Any
    digests: Digests | None = None
    tokenizer_digest: Callable[[], str] | None = None

    def use(self, kernels: Kernels) -> None:
        """Compute the blocks of both towers with these kernels from now on."""
        self.image.stack.use(kernels)
        self.text.stack.use(kernels)

    def digest(self) -> str:
        """Hash of all weights, the same whichever towers are loaded."""
        digests = self.digests or digests_in_memory(self.model)
        return joint_digest(digests(list(self.model.state_dict())))

    def identity(self) -> dict[str, Any]:
        """What determines its output, as JSON: the same for all towers and every version of transformers.

        `weights` and `tokenizer` are hashes; `image_tower`, `text_tower` and `preprocessing` are settings by name.
        """
        tokenizer = {"tokenizer": self.tokenizer_digest()} if self.tokenizer_digest else {}
        return {
            "weights": self.digest(),
            "image_tower": dict(self.image.architecture),
            "text_tower": dict(self.text.architecture),
            "preprocessing": pixel_settings(self.image.preprocessing.identity),
            **tokenizer,
        }


def save_backbone(backbone: Backbone, folder: Path) -> None:
    """Write a whole backbone for `from_pretrained` of transformers. Raises FileExistsError if `folder` exists."""
    with new_folder(folder) as draft:
        write_parts(backbone, draft)


def write_parts(backbone: Backbone, folder: Path) -> None:
    """Write model, tokenizer and preprocessor of a whole backbone into an existing folder."""
    for part in (backbone.model, backbone.tokenizer, backbone.processor):
        part.save_pretrained(folder)
