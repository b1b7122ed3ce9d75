"""The adapted CLIP as a plain Hugging Face folder: adapters are merged as W_0 + (alpha/r)·B·A."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from feddtl.errors import RunError
from feddtl.export.card import write_card
from feddtl.export.class_embeddings import EMBEDDINGS, write_class_embeddings
from feddtl.export.run_model import Note, RunModel, open_run_model
from feddtl.models.backbone import write_parts
from feddtl.models.lora import Lora, layer_names
from feddtl.state_folder import AnyPath, expanded
from feddtl.storage import new_folder

# What the configuration says of the classes, by the names of a pipeline's arguments.
IN_CONFIG = ("candidate_labels", "hypothesis_template")


def export_merged(folder: AnyPath, output: AnyPath, note: Note = lambda text: None) -> None:
    """Merge a run's adapters into its CLIP and write model, tokenizer, preprocessor, classes and a model card.

    The configuration names the classes and the prompt too: `pipeline(…).model.config.candidate_labels` and
    `hypothesis_template` are the arguments of a zero-shot pipeline. Of several templates a pipeline takes the first, so
    the text embeddings of the run's classes are written, too.

    Args:
        folder: Of the run.
        output: New folder of the merged model.
        note: Called with notes for the user.

    Raises:
        RunError: No run in `folder`, no finished round, another model than that of the run, a non-empty `output`, or a
            method without LoRA.
    """
    folder, output = expanded(folder), expanded(output)
    source = open_run_model(folder, output, note)
    if not source.method.trains:
        raise RunError(
            f"{folder} is a run of '{source.run.experiment.method}', which has no adapters.", "Export a trained run."
        )
    if not source.method.adapters(source.state):
        raise RunError(
            f"{folder} is a run of '{source.run.experiment.method}'. What it trains (prompts, a gate, adapters beside "
            "the blocks, or LoRA of which each client keeps a part) cannot be merged into the weights of one plain "
            "Hugging Face CLIP.",
            _instead(folder, personal=bool(source.method.trained_parameters().personal)),
        )
    classes = source.classes
    source.clip.model.config.update({key: classes[key] for key in IN_CONFIG})
    with new_folder(output) as draft:
        if len(source.templates) > 1:
            # Before the merge, after which the adapters would count twice.
            write_class_embeddings(source, draft)
            note(
                f"The run averages {len(source.templates)} prompts, and a pipeline takes one: it finds the first. "
                f"{EMBEDDINGS} has the means; the model card shows how to use them."
            )
        merge_adapters(source)
        write_parts(source.clip, draft)
        source.write_classes(draft)
        write_card(source, draft, "transformers", note)


def merge_adapters(source: RunModel) -> None:
    """Merge the adapters of a run into its backbone, in place; a method without any has nothing to merge."""
    for lora in source.method.adapters(source.state).values():
        merge(source.clip.model, lora)


def _instead(folder: Path, *, personal: bool) -> str:
    """What can be done with a run whose model cannot be merged."""
    tensors = folder / "tensors"
    if personal:
        return (
            f"The shared tensors and those of each client are in {tensors} once the run is finished, and "
            "final_client_models in summary.json has the scores of the clients' own models. `feddtl evaluate` and "
            "feddtl.load_trained_model use the global model without the clients' parts."
        )
    return (
        f"Use the run instead: `feddtl evaluate {folder}`, or `feddtl.load_trained_model('{folder}')` in Python. Its "
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
