"""A pre-trained CLIP, cut by modality: the only module that imports transformers.

Attributes of `Clip` are all a method needs: an image tower, a text tower, and the frozen logit scale.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from feddtl.errors import ModelError
from feddtl.models.digests import Digests, digests_in_memory, joint_digest
from feddtl.models.image_tower import ImageTower
from feddtl.models.kernels import Kernels
from feddtl.models.model_record import ModelRecord, Settings
from feddtl.models.modules import ClipModules, Tower, align, is_plain
from feddtl.models.preprocess import Preprocessing, preprocessing_identity
from feddtl.models.text_tower import LEGACY_END_OF_TEXT, TextTower
from feddtl.models.weight_files import open_weights
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
        model: The underlying CLIPModel, for export; `ClipModules` where towers were asked for.
        tokenizer: Its tokenizer, for export; None without the text tower.
        processor: Its image processor, for export; None where towers were asked for.
        digests: Hashes of its weights, also of those that are not loaded; None: computed from those in memory.
    """

    source: str
    image: ImageTower
    text: TextTower
    logit_scale: float
    model: Any
    tokenizer: Any
    processor: Any
    digests: Digests | None = None

    def use(self, kernels: Kernels) -> None:
        """Compute the blocks of both towers with these kernels from now on."""
        self.image.stack.use(kernels)
        self.text.stack.use(kernels)

    def digest(self) -> str:
        """Hash of all weights, the same whichever towers are loaded."""
        digests = self.digests or digests_in_memory(self.model)
        return joint_digest(digests(list(self.model.state_dict())))


def load_clip(
    source: str,
    device: torch.device | str = "cpu",
    *,
    towers: Collection[Tower] | None = None,
    remembered_in: Path | None = None,
) -> Clip:
    """CLIP from a Hub id, a local folder, or 'tiny-clip' (the embedded one), frozen and in float32.

    With `towers`, the weights of these alone are loaded from safetensors files, and those in float32 take memory only
    as they are used. transformers is then imported for the tokenizer of the text tower, for images, and for settings
    that `remembered_in` does not know yet. Such a CLIP cannot be exported. A model in other files, one that has to be
    downloaded first, or one with an activation function that is rare among CLIPs is loaded whole all the same.

    Args:
        source: See above.
        device: Where it computes.
        towers: Those that will be used; None: the whole model.
        remembered_in: The cache folder, where settings and hashes of weights are remembered for later processes; None:
            nowhere.

    Raises:
        ModelError: Not found, not a CLIP, or files missing.
    """
    folder = _local_folder(source)
    if towers is not None:
        here = folder or _downloaded(source)
        found = None if here is None else _load_towers(source, here, frozenset(towers), device, remembered_in)
        if found is not None:
            return found
    model, processor, tokenizer = _read_whole(str(folder or source), source)
    model.eval().requires_grad_(False).to(device)
    align(model)
    scale, preprocessing = float(model.logit_scale.exp()), Preprocessing.of(processor)
    return Clip(
        source, ImageTower(model, preprocessing), TextTower(model, tokenizer), scale, model, tokenizer, processor
    )


def save_clip(clip: Clip, folder: Path) -> None:
    """Write model, tokenizer and preprocessor of a whole CLIP as `CLIPModel.from_pretrained` reads them."""
    with new_folder(folder) as draft:
        for part in (clip.model, clip.tokenizer, clip.processor):
            part.save_pretrained(draft)


def _local_folder(source: str) -> Path | None:
    """The folder that a source means; None for a Hub id. Raises ModelError where there is none."""
    if source == EMBEDDED:
        return EMBEDDED_FOLDER
    if not source.startswith((".", "/", "~")) and source.count("/") == 1:
        return None
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise ModelError(
            f"There is no model folder {source}.",
            "Give a folder with config.json and model.safetensors, a Hub id such as "
            "openai/clip-vit-base-patch16, or 'tiny-clip'.",
        )
    return folder


def _downloaded(source: str) -> Path | None:
    """Folder of a Hub model that was downloaded earlier."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _load_towers(
    source: str, folder: Path, towers: frozenset[Tower], device: torch.device | str, remembered_in: Path | None
) -> Clip | None:
    """Some towers of a model; None where its files or its architecture are not as plain as that takes."""
    files = open_weights(folder)
    if files is None:
        return None
    record = ModelRecord(folder, remembered_in)
    settings = record.settings(lambda: _read_settings(str(folder), source))
    config = settings["config"]
    if not is_plain(config):
        return None
    model = ClipModules(config, source if _local_folder(source) is None else str(folder))
    if not files.fit(model.state_dict()):
        return None
    device = torch.device(device)
    model.hold(files.read(model.names_of(towers)), device)
    align(model)
    tokenizer = None
    if "text" in towers:
        with _model_errors(source):
            tokenizer = _read_tokenizer(str(folder))
        _refuse_tokenizer(source, tokenizer, int(config["text_config"]["eos_token_id"]))
    preprocessing = Preprocessing(lambda: _read_processor(str(folder), source), settings["preprocessing"])
    digests = record.digests(files.digests)
    image, text = ImageTower(model, preprocessing, digests, device), TextTower(model, tokenizer, device)
    return Clip(source, image, text, float(model.logit_scale.exp()), model, tokenizer, None, digests)


def _read_whole(folder: str, source: str) -> tuple[Any, Any, Any]:
    """Model, image processor and tokenizer."""
    with _model_errors(source):
        from transformers import CLIPModel

        _read_config(folder, source)
        loaded: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        model, report = loaded
        tokenizer, processor = _read_tokenizer(folder), _read_processor(folder, source)
    if missing := report["missing_keys"]:
        raise ModelError(
            f"The model {source} lacks {len(missing)} weights, among them {min(missing)}.",
            "Download it again: config.json and the weights must be of the same CLIPModel.",
        )
    _refuse_tokenizer(source, tokenizer, int(model.config.text_config.eos_token_id))
    return model, processor, tokenizer


def _read_settings(folder: str, source: str) -> Settings:
    """Configuration and preprocessing as JSON."""
    with _model_errors(source):
        config = json.loads(json.dumps(_read_config(folder, source).to_dict(), default=str))
    return {"config": config, "preprocessing": preprocessing_identity(_read_processor(folder, source))}


def _read_config(folder: str, source: str) -> Any:
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    config = AutoConfig.from_pretrained(folder)
    if config.model_type != "clip":
        raise ModelError(f"{source} is a '{config.model_type}' model, not a CLIP.", "Give a CLIPModel.")
    return config


def _read_tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _read_processor(folder: str, source: str) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    with _model_errors(source):
        return CLIPImageProcessorPil.from_pretrained(folder)


@contextmanager
def _model_errors(source: str) -> Iterator[None]:
    """Turn what transformers raises for files that it cannot use into a ModelError that names the model."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    # Damaged weights raise SafetensorError, weights of another shape RuntimeError.
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"Cannot load the model {source}: {first_line}",
            "Check the name; without network, download it once elsewhere and give its folder (HF_HUB_OFFLINE=1 "
            "uses the local Hub cache only).",
        ) from None


def _refuse_tokenizer(source: str, tokenizer: Any, end_of_text: int) -> None:
    """Raise ModelError where transformers fills a gap with a tokenizer without a vocabulary."""
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
