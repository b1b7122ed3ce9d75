"""Unit text embeddings of a run's classes in one file, for programs that have image embeddings."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from feddtl.export.card import write_card
from feddtl.export.run_model import Note, RunModel, open_run_model
from feddtl.models.class_texts import require_distinct
from feddtl.state_folder import AnyPath, expanded
from feddtl.storage import new_folder

EMBEDDINGS = "class_embeddings.safetensors"


def export_class_embeddings(folder: AnyPath, output: AnyPath, note: Note = lambda text: None) -> None:
    """Write the text embeddings of a run's classes, of any method, with the classes and a model card.

    Args:
        folder: Of the run.
        output: New folder.
        note: Called with notes for the user.

    Raises:
        RunError: As `feddtl.export_merged`, except that every method has class embeddings.
    """
    folder, output = expanded(folder), expanded(output)
    source = open_run_model(folder, output, note)
    with new_folder(output) as draft:
        write_class_embeddings(source, draft)
        source.write_classes(draft)
        write_card(source, draft, "embeddings", note)


def write_class_embeddings(source: RunModel, folder: Path) -> None:
    """Write class_embeddings.safetensors: `class_embeddings`, (C, e) unit vectors, and names and prompt as metadata.

    Raises DataError if the model reads two of the class names as the same text.
    """
    require_distinct(source.clip.text, source.class_names, source.data["prompt_template"])
    rows = source.classifier.text_embeddings(source.class_names).float().cpu().contiguous()
    metadata = {
        "class_names": json.dumps(source.class_names),
        "prompt_template": source.prompt,
        "logit_scale": str(source.clip.logit_scale),
    }
    save_file({"class_embeddings": rows}, folder / EMBEDDINGS, metadata)
