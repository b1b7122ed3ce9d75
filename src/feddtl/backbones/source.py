"""Where the files of a model are, to which family it belongs, and the error if it cannot be loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from feddtl.errors import ModelError
from feddtl.state_folder import expanded, require_hub_cache

EMBEDDED = "tiny-clip"
EMBEDDED_FOLDER = Path(__file__).parent.parent / "assets" / "tiny-clip"
CONFIG = "config.json"


def local_folder(source: str) -> Path | None:
    """The folder that a source names; None for a Hub id.

    Raises:
        ModelError: It does not exist.
        ConfigError: There is no folder for what is downloaded.
    """
    if source == EMBEDDED:
        return EMBEDDED_FOLDER
    if not source.startswith((".", "/", "~")) and source.count("/") == 1:
        require_hub_cache()
        return None
    folder = expanded(source)
    if not folder.is_dir():
        raise ModelError(
            f"There is no model folder {source}.",
            "Use a folder with config.json and model.safetensors, a Hub id such as "
            "openai/clip-vit-base-patch16, or 'tiny-clip'.",
        )
    return folder


def downloaded(source: str) -> Path | None:
    """Folder of a Hub model that was downloaded earlier, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, CONFIG)
    return Path(found).parent if isinstance(found, str) else None


def model_type(source: str) -> str:
    """`model_type` in the configuration of a model. Only the configuration of a Hub model is downloaded.

    Raises:
        ModelError: No such model, or its configuration is missing, damaged or names no type.
    """
    folder = local_folder(source) or downloaded(source)
    try:
        file = _downloaded_config(source) if folder is None else folder / CONFIG
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
            raise ValueError(f"{CONFIG} has no 'model_type'.")
    except (OSError, ValueError) as error:
        raise _cannot_load(source, error) from None
    return str(config["model_type"])


@contextmanager
def model_errors(source: str) -> Iterator[None]:
    """Turn the errors of transformers for files that it cannot use into a ModelError that names the model."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    # Damaged weights raise SafetensorError, weights of another shape RuntimeError.
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise _cannot_load(source, error) from None


def _downloaded_config(source: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(source, CONFIG))


def _cannot_load(source: str, error: Exception) -> ModelError:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelError(
        f"Cannot load the model {source}: {first_line}",
        "Check the name. Without a network, download the model on another machine and pass its folder "
        "(HF_HUB_OFFLINE=1 uses only the local Hub cache).",
    )
