"""The adapted CLIP as a plain Hugging Face folder: adapters are merged as W_0 + (alpha/r)·B·A."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from feddtl.errors import RunError
from feddtl.methods.catalog import build_method
from feddtl.methods.task import Task
from feddtl.models.backbone import save_backbone
from feddtl.models.lora import Lora, layer_names
from feddtl.preparation import model_of_run
from feddtl.run_files import resuming
from feddtl.runs import RunFolder
from feddtl.storage import storage_errors


def export_merged(folder: Path, output: Path, note: Callable[[str], None] = lambda text: None) -> None:
    """Merge a run's adapters into its CLIP and write model, tokenizer and preprocessor.

    Args:
        folder: Of the run.
        output: New folder of the merged model.
        note: Called with notes for the user.

    Raises:
        RunError: No run in `folder`, no finished round, another model than that of the run, a non-empty `output`, or a
            method without LoRA.
    """
    with storage_errors(output):
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise RunError(f"{output} is not empty; nothing was changed.", "Choose a new folder.")
    run = RunFolder.open(folder)
    progress = run.latest_progress()
    experiment, data = run.experiment, run.data
    clip = model_of_run(run, experiment, note=note)
    task = Task(clip, tuple(data["base_classes"]), data["prompt_template"], experiment.seed)
    method = build_method(task, experiment)
    if not method.trains:
        raise RunError(f"{folder} is a run of '{experiment.method}', which has no adapters.", "Export a trained run.")
    if progress is None:
        raise RunError(f"{folder} has no finished round.", f"Resume it: {resuming(folder)}.")
    if not (adapters := method.adapters(progress.state)):
        raise RunError(
            f"{folder} is a run of '{experiment.method}'. What it trains (prompts, a gate, adapters beside the "
            "blocks, or LoRA of which each client keeps a part) cannot be merged into the weights of one plain Hugging "
            "Face CLIP.",
            _instead(folder, personal=bool(method.trained_parameters().personal)),
        )
    for lora in adapters.values():
        merge(clip.model, lora)
    save_backbone(clip, output)


def _instead(folder: Path, *, personal: bool) -> str:
    """What can be done with a run whose model cannot be merged."""
    tensors = folder / "tensors"
    if personal:
        return (
            f"The shared tensors and those of each client are in {tensors} once the run is finished, and "
            "final_client_models in summary.json has the scores of the clients' own models. feddtl evaluate and "
            "feddtl.load_trained_model use the global model without the clients' parts."
        )
    return (
        f"Use the run instead: feddtl evaluate {folder}, or feddtl.load_trained_model('{folder}') in Python. Its "
        f"tensors are in {tensors} once it is finished."
    )


@torch.no_grad()
def merge(model: Any, lora: Lora) -> None:
    """Add (alpha/r)·B·A, and the residual if there is one, to each adapted weight of a transformers model, in place."""
    parameters: Mapping[str, torch.Tensor] = dict(model.named_parameters())
    for name in layer_names(lora.factors):
        weight = parameters[name + ".weight"]
        if (change := lora.low_rank(name)) is not None:
            weight += (change.up @ change.down).to(weight.device)
