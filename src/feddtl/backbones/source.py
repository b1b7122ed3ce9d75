"""Where the files of a model are, to which family it belongs, and the error if it cannot be loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feddtl.config.experiment import EMBEDDED_MODEL
from feddtl.errors import FeddtlError, ModelError
from feddtl.memory import is_out_of_memory
from feddtl.models.pickled_weights import PICKLED
from feddtl.models.weight_files import INDEX, PICKLED_INDEX, WEIGHTS, describe_files
from feddtl.state_folder import expanded, require_hub_cache

EMBEDDED = EMBEDDED_MODEL
EMBEDDED_FOLDER = Path(__file__).parent.parent / "assets" / "tiny-clip"
CONFIG = "config.json"
# One of each is in the folder of a whole model.
COMPLETE = (
    (WEIGHTS, INDEX, PICKLED, PICKLED_INDEX),
    ("preprocessor_config.json", "processor_config.json"),
    ("tokenizer.json", "vocab.json"),
)
# What a CLIP is loaded from, and the weights of one that has no safetensors.
DOWNLOADED = ("*.json", "*.txt", WEIGHTS, "model-*.safetensors")
DOWNLOADED_PICKLED = (PICKLED, "pytorch_model-*.bin")


def local_folder(source: str) -> Path | None:
    """The folder that a source names; None for a Hub id.

    Raises:
        ModelError: It does not exist.
        ConfigError: There is no folder for what is downloaded.
    """
    if source == EMBEDDED:
        return EMBEDDED_FOLDER
    folder = expanded(source)
    if os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir raises PermissionError
        return folder
    if not source.startswith((".", "/", "~")) and source.count("/") == 1:
        require_hub_cache()
        return None
    looked_for = "" if folder.is_absolute() else f" (looked for {folder.absolute()})"
    raise ModelError(
        f"There is no model folder {source}{looked_for}.",
        "Use a folder with config.json and model.safetensors, a Hub id such as "
        "openai/clip-vit-base-patch16, or 'tiny-clip'.",
    )


def downloaded(source: str) -> Path | None:
    """Folder of a Hub model that was downloaded earlier, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, CONFIG)
    return Path(found).parent if isinstance(found, str) else None


def model_folder(source: str) -> Path:
    """The folder of a model; a Hub model that is not complete on this machine is downloaded. Raises ModelError."""
    if (folder := local_folder(source)) is not None:
        return folder
    found = downloaded(source)
    # Another program may have downloaded the weights alone.
    if found is not None and all(any((found / name).exists() for name in names) for names in COMPLETE):
        return found
    with model_errors(source):
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(source, allow_patterns=list(DOWNLOADED)))
        if not any((folder / name).exists() for name in (WEIGHTS, INDEX)):
            folder = Path(snapshot_download(source, allow_patterns=list(DOWNLOADED_PICKLED)))
        return folder


def model_type(source: str) -> str:
    """`model_type` in the configuration of a model. Only the configuration of a Hub model is downloaded.

    Raises:
        ModelError: No such model, or its configuration is missing, damaged or names no type.
    """
    folder = local_folder(source) or downloaded(source)
    if folder is not None:
        describe_files(folder, source)
    with model_errors(source):
        file = _downloaded_config(source) if folder is None else folder / CONFIG
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
            raise ValueError(f"{CONFIG} has no 'model_type'.")
    return str(config["model_type"])


@contextmanager
def model_errors(source: str) -> Iterator[None]:
    """Turn the errors of transformers for files that it cannot use into a ModelError that names the model."""
    try:
        yield
    except FeddtlError:
        raise
    # Wrong types in JSON files raise nearly anything.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise _cannot_load(source, error) from None


def _downloaded_config(source: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(source, CONFIG))


def _cannot_load(source: str, error: Exception) -> ModelError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # A line that ends in a colon only announces what is wrong.
    told = next((index for index, line in enumerate(lines) if not line.endswith(":")), len(lines) - 1)
    message = f"Cannot load the model {source}: {' '.join(lines[: told + 1])}"
    if os.path.isdir(expanded(source)):  # noqa: PTH112
        return ModelError(message, "Correct this file, or copy the model's folder again.")
    return ModelError(
        message,
        "Check the name. Without a network, download the model on another machine and pass its folder "
        "(HF_HUB_OFFLINE=1 uses only the local Hub cache).",
    )
