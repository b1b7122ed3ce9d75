"""The model card of an export: README.md, as the Hub and its readers know it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, StrictUndefined

from feddtl.backbones.source import EMBEDDED, EMBEDDED_FOLDER, downloaded, local_folder
from feddtl.data.catalog import CATALOG
from feddtl.export.run_model import Note, RunModel
from feddtl.methods.base import Method
from feddtl.records import SCORE_HEADINGS
from feddtl.run_files import has_clients_elsewhere
from feddtl.run_origin import recorded_model, recorded_start, start_text
from feddtl.runtimes.hostile import attack_text
from feddtl.storage import write_text_atomic
from feddtl.units import ClientNames, listed, percent, size

Format = Literal["transformers", "onnx", "embeddings"]
TEMPLATE = Path(__file__).with_name("card.md")
CARD = "README.md"
LIBRARIES: Mapping[Format, str] = {"transformers": "transformers", "onnx": "onnx", "embeddings": "safetensors"}
TASKS: Mapping[Format, str] = {
    "transformers": "zero-shot-image-classification",
    "onnx": "image-classification",
    "embeddings": "zero-shot-image-classification",
}
UNKNOWN_LICENCE = "not stated in the files of the base model; look it up before you share this model"


def write_card(source: RunModel, folder: Path, kind: Format, note: Note) -> None:
    """Write README.md into an export that is otherwise complete.

    It names folders of this machine by their last part alone. Its head has the base model only if that is a Hub id.

    Args:
        source: The run.
        folder: Of the export.
        kind: Its format.
        note: Called if the licence of the base model is unknown.
    """
    from huggingface_hub import ModelCard, ModelCardData

    experiment = source.run.experiment
    local = local_folder(experiment.model_name)
    licence = base_licence(experiment.model_name)
    if licence is None:
        note(f"The licence of {experiment.model} is {UNKNOWN_LICENCE}.")
    catalogued = CATALOG.get(experiment.data.source)
    head = ModelCardData(
        base_model=experiment.model_name if local is None else None,
        license=licence,
        datasets=[catalogued.hub_id] if catalogued else None,
        library_name=LIBRARIES[kind],
        pipeline_tag=TASKS[kind],
        tags=["clip", "federated-learning", "feddtl"],
    )
    values = {
        "kind": kind,
        "method": experiment.title,
        "base_model": base_name(experiment.model_name),
        "licence": licence or UNKNOWN_LICENCE,
        "dataset_licence": catalogued.licence if catalogued else "",
        "classes": source.classes,
        "templates": source.templates,
        "version": version("feddtl"),
        **_training(source),
        **_protection(source),
    }
    template = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    text = re.sub(r"\n{3,}", "\n\n", template.render(card_data=head.to_yaml(), **values))
    write_text_atomic(folder / CARD, str(ModelCard(text.rstrip() + "\n")))


def base_name(source: str) -> str:
    """What a model is called for other people: a Hub id, or the last part of a path."""
    if source == EMBEDDED:
        return "tiny-clip, the small CLIP inside feddtl"
    folder = local_folder(source)
    return source if folder is None else f"{folder.resolve().name} (a local folder)"


def base_licence(source: str) -> str | None:
    """The licence that the model card in a model's files states; None if it is not known. Nothing is downloaded."""
    from huggingface_hub import metadata_load

    folder = local_folder(source) or downloaded(source)
    if folder == EMBEDDED_FOLDER:
        return "apache-2.0"  # made and published together with this program
    card = folder / CARD if folder else None
    if card is None or not card.is_file():
        return None
    try:
        found = (metadata_load(card) or {}).get("license")
    except Exception:  # a damaged head says nothing of the licence
        return None
    return found if isinstance(found, str) and found else None


def _training(source: RunModel) -> dict[str, Any]:
    """Data, rounds, scores and traffic of a run, as text."""
    experiment, data, summary = source.run.experiment, source.data, source.run.summary
    records = source.run.records
    final = summary.final if summary else (records[-1].headline if records else {})
    before = summary.zero_shot if summary else {}
    names, started = experiment.data, recorded_start(source.run.path)
    return {
        "dataset": data["dataset"],
        "domains": listed(data.get("domains") or ["all"]),
        "regime": f"few-shot, at most {names.shots} of each class" if names.regime == "few-shot" else "all of them",
        "partition": names.partition,
        "clients": len(data.get("images_per_client_and_class") or ()) or names.clients,
        "train_images": data.get("train_images"),
        "attack": attack_text(experiment, ClientNames(tuple(data.get("sites", ())))),
        "started_from": start_text(started) if started else "",
        "started_sha256": started.get("sha256"),
        "weights_sha256": recorded_model(source.run.path).get("weights"),
        "rounds": source.state.round,
        "asked_rounds": experiment.rounds,
        "seed": experiment.seed,
        "scored": summary.scored if summary else "test images",
        "few_images": summary.few_images if summary else None,
        "scores": [
            (name, percent(before.get(key)), percent(final.get(key)))
            for key, name in SCORE_HEADINGS.items()
            if final.get(key) is not None
        ],
        "bytes_up": size(sum(record.bytes_up for record in records)),
        "bytes_down": size(sum(record.bytes_down for record in records)),
    }


def _protection(source: RunModel) -> dict[str, Any]:
    """What left a client, and what limited it."""
    method, uplink = source.method, source.run.experiment.uplink
    return {
        "trains": method.trains,
        "elsewhere": has_clients_elsewhere(source.run.path),
        "sends_embeddings": type(method).uplink_samples is not Method.uplink_samples,
        "most_embeddings": uplink.max_embeddings_per_class,
        "personal": bool(method.trained_parameters().personal),
        "norm_bound": uplink.max_update_norm if "norm-bound" in uplink.transform_names else None,
        "transforms": [name for name in uplink.transform_names if name != "norm-bound"],
    }
