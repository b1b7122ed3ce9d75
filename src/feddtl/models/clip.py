"""A pre-trained CLIP, cut by modality: the only module that imports transformers.

Attributes of `Clip` are all a method needs: an image tower, a text tower, and the frozen logit scale.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import linear

from feddtl.errors import ModelError
from feddtl.models.kernels import Kernels
from feddtl.models.preprocess import Preprocessing
from feddtl.models.towers import Adapter, BlockStack
from feddtl.storage import new_folder

EMBEDDED = "tiny-clip"
LEGACY_END_OF_TEXT = 2
# Base, novel and all classes, below the trained blocks and from the start.
REMEMBERED_TEXTS = 6
EMBEDDED_FOLDER = Path(__file__).parent.parent / "assets" / "tiny-clip"


class ImageTower:
    """Images to projected features; lives on the clients."""

    def __init__(self, model: Any, processor: Any) -> None:
        vision = model.vision_model
        self.stack = BlockStack(
            vision.encoder,
            "vision_model.encoder.layers",
            model.config.vision_config.num_attention_heads,
            causal=False,
        )
        self._vision = vision
        self._projection = model.visual_projection
        self.preprocessing = Preprocessing(processor)
        self.name = Path(model.name_or_path).name if Path(model.name_or_path).is_dir() else str(model.name_or_path)
        self.device: torch.device = self._projection.weight.device

    @property
    def precision(self) -> torch.dtype:
        """Precision in which the blocks compute."""
        return self.stack.precision

    @property
    def width(self) -> int:
        """d: width of the hidden states."""
        return int(self._projection.in_features)

    @property
    def feature_width(self) -> int:
        """e: width of the joint space."""
        return int(self._projection.out_features)

    @property
    def tokens(self) -> int:
        """S: the class token and the patches."""
        return int(self._vision.embeddings.num_positions)

    @property
    def images_per_pass(self) -> int:
        """Images that one pass through the blocks should hold."""
        return self.stack.sequences_per_pass(self.tokens)

    @property
    def architecture(self) -> dict[str, Any]:
        """What beside the weights decides the output: attention heads, activation function, norms' epsilon."""
        config = self._vision.config
        return {key: getattr(config, key) for key in ("num_attention_heads", "hidden_act", "layer_norm_eps")}

    def prefix_weights(self, stop: int) -> dict[str, Tensor]:
        """Weights that decide what `prefix` gives for a block, by name."""
        parts = {"embeddings": self._vision.embeddings, "pre_layrnorm": self._vision.pre_layrnorm}
        parts |= {f"blocks.{index}": self.stack.blocks[index] for index in range(stop)}
        if stop == len(self.stack):
            parts |= {"post_layernorm": self._vision.post_layernorm, "projection": self._projection}
        return {
            f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()
        }

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images to (B, 3, H, W) pixel values: the model's own test transform, no augmentation."""
        return self.preprocessing(images)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Input of block 0, (B, S, d): class token first, then the patches.

        The patches do not overlap, so their convolution is one product of matrices.
        """
        embeddings = self._vision.embeddings
        weight = embeddings.patch_embedding.weight  # (d, 3, p, p)
        side = weight.shape[-1]
        batch, channels, height, width = pixel_values.shape
        cut = pixel_values.to(self.precision).view(batch, channels, height // side, side, width // side, side)
        patches = linear(cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2), weight.flatten(1).to(self.precision))
        first = embeddings.class_embedding.expand(batch, 1, -1)
        positions = embeddings.position_embedding.weight
        hidden: Tensor = self._vision.pre_layrnorm(torch.cat([first, patches.to(first.dtype)], dim=1) + positions)
        return hidden

    @torch.no_grad()
    def prefix(self, pixel_values: Tensor, stop: int) -> Tensor:
        """What never changes of an image: (B, S, d), the input of block `stop`, from (B, 3, H, W) pixel values.

        Where `stop` is the number of blocks, nothing changes at all: (B, e), the projected features.
        """
        if len(pixel_values) > self.images_per_pass:
            parts = torch.split(pixel_values, self.images_per_pass)
            return torch.cat([self.prefix(part, stop) for part in parts])
        hidden = self.embed(pixel_values)
        # Without a backward pass the fused kernel is the faster one, and what is kept depends on no choice.
        if stop == len(self.stack):
            return self._project(self.stack.run_to_rows(hidden, 0, class_tokens(hidden), attention="sdpa"))
        return self.stack.run(hidden, 0, stop=stop, attention="sdpa")

    def features(self, activations: Tensor, first_block: int, adapter: Adapter = None) -> Tensor:
        """Projected class token (B, e), before normalisation, from what `prefix` gives for `first_block`."""
        if first_block == len(self.stack):
            return activations
        return self._project(self.stack.run_to_rows(activations, first_block, class_tokens(activations), adapter))

    def _project(self, token: Tensor) -> Tensor:
        """Class token (B, d) after the last block to features (B, e), in the precision of the model's weights."""
        token = token.to(self._projection.weight.dtype)
        projected: Tensor = self._projection(self._vision.post_layernorm(token))
        return projected


def class_tokens(hidden: Tensor) -> Tensor:
    """(B,) position of the class token in images (B, S, d)."""
    return torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)


class TextTower:
    """Class names to projected features; lives on the server."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        text = model.text_model
        self.stack = BlockStack(
            text.encoder,
            "text_model.encoder.layers",
            model.config.text_config.num_attention_heads,
            causal=True,
        )
        self._text = text
        self._projection = model.text_projection
        self._tokenizer = tokenizer
        self._eos = int(model.config.text_config.eos_token_id)
        self._context = int(model.config.text_config.max_position_embeddings)
        self._prefixes: dict[tuple[tuple[str, ...], int, torch.dtype], tuple[Tensor, Tensor]] = {}
        self.device: torch.device = self._projection.weight.device

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids (C, S) and the position of each end of text, (C,).

        S is the longest prompt: under causal attention no token behind an end of text is ever read.

        Raises:
            ModelError: A prompt is longer than the tower's context.
        """
        rows = self._tokenizer(list(prompts), padding=False, truncation=False)["input_ids"]
        longest = max(range(len(rows)), key=lambda index: len(rows[index]))
        if len(rows[longest]) > self._context:
            raise ModelError(
                f"The prompt {prompts[longest]!r} has {len(rows[longest])} tokens; this model takes {self._context}.",
                "Shorten the class name or the prompt template (data.prompt).",
            )
        ids = torch.zeros(len(rows), len(rows[longest]), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        return ids.to(self.device), self._end_of_text(ids).to(self.device)

    def _end_of_text(self, ids: Tensor) -> Tensor:
        # The old default of configurations whose vocabulary ends with that token: transformers then pools at
        # the largest id.
        if self._eos == LEGACY_END_OF_TEXT:
            return ids.argmax(dim=-1)
        return (ids == self._eos).int().argmax(dim=-1)

    def embed(self, ids: Tensor) -> Tensor:
        """Input of block 0, (C, S, d), for token ids (C, S)."""
        hidden: Tensor = self._text.embeddings(input_ids=ids)
        return hidden

    @torch.no_grad()
    def prefix(self, prompts: tuple[str, ...], stop: int) -> tuple[Tensor, Tensor]:
        """What never changes of texts: (C, S, d), the input of block `stop`, and each end of text, (C,).

        The latest few are remembered, since every model of a round is asked for the same classes.
        """
        key = (prompts, stop, self.stack.precision)
        if key not in self._prefixes:
            ids, ends = self.tokenize(prompts)
            while len(self._prefixes) >= REMEMBERED_TEXTS:
                del self._prefixes[next(iter(self._prefixes))]
            self._prefixes[key] = (self.stack.run(self.embed(ids), 0, stop=stop, attention="sdpa"), ends)
        return self._prefixes[key]

    def features(self, hidden: Tensor, ends: Tensor, first_block: int, adapter: Adapter = None) -> Tensor:
        """Projected text features (C, e), before normalisation, from the input of `first_block`, (C, S, d)."""
        # The final layer norm acts on each token alone, so it may follow the choice of the row.
        token = self.stack.run_to_rows(hidden, first_block, ends, adapter)
        token = token.to(self._projection.weight.dtype)
        projected: Tensor = self._projection(self._text.final_layer_norm(token))
        return projected


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
