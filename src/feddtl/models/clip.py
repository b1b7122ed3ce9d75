"""A pre-trained CLIP, cut by modality: the only module that imports transformers.

Attributes of `Clip` are all a method needs: an image tower, a text tower, and the frozen logit scale.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from feddtl.errors import ModelError
from feddtl.models.image_tower import ImageTower
from feddtl.models.kernels import Kernels
from feddtl.models.text_tower import LEGACY_END_OF_TEXT, TextTower
from feddtl.storage import new_folder

EMBEDDED = "tiny-clip"
EMBEDDED_FOLDER = Path(__file__).parent.parent / "assets" / "tiny-clip"


@dataclass(frozen=True)
class Clip:
    """A frozen CLIP.

    Attributes:
        source: Hub id or folder it came from.
        image: The image tower.
        text: The text tower.
        logit_scale: s = exp(logit_scale) of the pre-trained model (about 1/τ = 100 in the paper's).
        model: The underlying CLIPModel, for export.
        tokenizer: Its tokenizer, for export.
        processor: Its image processor, for export.
    """

    source: str
    image: ImageTower
    text: TextTower
    logit_scale: float
    model: Any
    tokenizer: Any
    processor: Any

    def use(self, kernels: Kernels) -> None:
        """Compute the blocks of both towers with these kernels from now on."""
        self.image.stack.use(kernels)
        self.text.stack.use(kernels)


def load_clip(source: str, device: torch.device | str = "cpu") -> Clip:
    """CLIP from a Hub id, a local folder, or 'tiny-clip' (the embedded one), frozen and in float32.

    Raises:
        ModelError: Not found, not a CLIP, or files missing.
    """
    folder = str(EMBEDDED_FOLDER) if source == EMBEDDED else source
    model, processor, tokenizer = _read_parts(folder, source)
    model.eval().requires_grad_(False).to(device)
    scale = float(model.logit_scale.exp())
    return Clip(source, ImageTower(model, processor), TextTower(model, tokenizer), scale, model, tokenizer, processor)


def save_clip(clip: Clip, folder: Path) -> None:
    """Write model, tokenizer and preprocessor as `CLIPModel.from_pretrained` reads them."""
    with new_folder(folder) as draft:
        for part in (clip.model, clip.tokenizer, clip.processor):
            part.save_pretrained(draft)


def _read_parts(folder: str, source: str) -> tuple[Any, Any, Any]:
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoTokenizer, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    looks_local = folder.startswith((".", "/", "~")) or folder.count("/") != 1
    if looks_local and not Path(folder).expanduser().is_dir():
        raise ModelError(
            f"There is no model folder {source}.",
            "Give a folder with config.json and model.safetensors, a Hub id such as "
            "openai/clip-vit-base-patch16, or 'tiny-clip'.",
        )
    folder = str(Path(folder).expanduser()) if looks_local else folder
    try:
        config = AutoConfig.from_pretrained(folder)
        if config.model_type != "clip":
            raise ModelError(f"{source} is a '{config.model_type}' model, not a CLIP.", "Give a CLIPModel.")
        loaded: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        model, report = loaded
        tokenizer = AutoTokenizer.from_pretrained(folder)
        processor = CLIPImageProcessorPil.from_pretrained(folder)
    # Damaged weights raise SafetensorError, weights of another shape RuntimeError.
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"Cannot load the model {source}: {first_line}",
            "Check the name; without network, download it once elsewhere and give its folder (HF_HUB_OFFLINE=1 "
            "uses the local Hub cache only).",
        ) from None
    _refuse_gaps(source, report["missing_keys"], tokenizer, int(model.config.text_config.eos_token_id))
    return model, processor, tokenizer


def _refuse_gaps(source: str, missing_weights: Collection[str], tokenizer: Any, end_of_text: int) -> None:
    """Raise ModelError where transformers fills a gap: random weights, or a tokenizer without a vocabulary."""
    if missing_weights:
        raise ModelError(
            f"The model {source} lacks {len(missing_weights)} weights, among them {min(missing_weights)}.",
            "Download it again: config.json and the weights must be of the same CLIPModel.",
        )
    first, second = tokenizer(["a", "b"])["input_ids"]
    if first == second or (end_of_text != LEGACY_END_OF_TEXT and end_of_text not in first):
        raise ModelError(
            f"The tokenizer of {source} does not fit the model: it gives different texts the same tokens, or none "
            f"that ends the text ({end_of_text}).",
            "Put the tokenizer files of the same model (tokenizer.json, tokenizer_config.json) next to its weights.",
        )


def prompts_for(class_names: Sequence[str], template: str) -> list[str]:
    """The template with each class name in place of `{class}`; underscores become blanks."""
    return [template.replace("{class}", name.replace("_", " ")) for name in class_names]
