"""Checkpoints of a run's last rounds: state.safetensors, and progress.json with its checksum."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from feddtl.errors import RunError
from feddtl.evaluate import ClientHits
from feddtl.federated_accuracy import FederatedAccuracy
from feddtl.messages import ServerState
from feddtl.parsing import parse_table
from feddtl.records import read_records
from feddtl.runtimes.rounds import Progress
from feddtl.sealed_files import confirmed, sealed
from feddtl.storage import DRAFT, json_text, new_folder, read_whole, storage_errors
from feddtl.tensor_groups import add_prefix, select_prefix

KEPT = 2
# Raised when tensors get other names: a model made of tensors that nobody finds would be the pre-trained one.
FORMAT = 2
NAME = re.compile(r"round-(\d+)")


def add_checkpoint(folder: Path, progress: Progress) -> None:
    """Add a checkpoint to the folder of all checkpoints, then remove all but the latest two."""
    # The final evaluation amends the last round, whose checkpoint already exists.
    with new_folder(folder / f"round-{progress.state.round:04d}", replace=True) as draft:
        write_checkpoint(draft, progress)
    for old in _oldest_first(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def latest_checkpoint(folder: Path) -> Progress | None:
    """The last checkpoint, or None before the first. Raises RunError as in `read_checkpoint`."""
    found = _oldest_first(folder)
    return read_checkpoint(found[-1]) if found else None


def drop_checkpoint(folder: Path, number: int) -> None:
    """Remove the checkpoint of a round, if there is one, so that the run continues from the previous one.

    Raises:
        RunError: The previous one is damaged; nothing is removed.
    """
    dropped = folder / f"round-{number:04d}"
    found = _oldest_first(folder)
    if dropped not in found:
        return
    for previous in found[: found.index(dropped)][-1:]:
        read_checkpoint(previous)
    with storage_errors(dropped):
        # A checkpoint without this file would be damaged, so the folder disappears in one step.
        draft = dropped.with_name(f".{dropped.name}{DRAFT}")
        dropped.rename(draft)
        shutil.rmtree(draft)


def _oldest_first(folder: Path) -> list[Path]:
    """By number, because names with five digits sort before those with four."""
    found = {int(match[1]): path for path in folder.glob("round-*") if (match := NAME.fullmatch(path.name))}
    return [found[number] for number in sorted(found)]


def write_checkpoint(folder: Path, progress: Progress) -> None:
    """Write the server state, the memory of clients and policies, and all records to an empty folder."""
    tensors = {**add_prefix("state", progress.state.tensors), **add_prefix("memory", progress.memory)}
    tensors |= add_prefix("own_hits", vars(progress.own_hits) if progress.own_hits else {})
    for client, personal in progress.personal.items():
        tensors |= add_prefix(f"personal/{client}", personal)
    # Copies: the anchor may share memory with the adapter, which the format refuses.
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "state.safetensors")
    content = {
        "format": FORMAT,
        "round": progress.state.round,
        "clients_with_state": sorted(progress.personal),
        # The format sorts tensors; a norm over all of them is bit-identical only in the same order.
        "tensors": list(tensors),
        "state_sha256": _digest(folder / "state.safetensors"),
        "records": [record.to_dict() for record in progress.records],
        "federated_before": progress.before.to_dict() if progress.before else {},
    }
    (folder / "progress.json").write_text(sealed(json_text(content, indent=None)), encoding="utf-8")


def read_checkpoint(folder: Path) -> Progress:
    """Read a checkpoint of `write_checkpoint`.

    Raises:
        RunError: The folder is damaged or cannot be read, or another version wrote it; the message states the remedy.
    """
    try:
        written = read_whole(folder / "progress.json")
        if "state_sha256" in (content := parse_table(written)):  # otherwise it is no version's
            _require_format(folder, content)
        content = confirmed(content, written)
        if _digest(folder / "state.safetensors") != content["state_sha256"]:
            raise ValueError("state.safetensors does not match its checksum")
        loaded = load_file(folder / "state.safetensors")
        tensors = {name: loaded[name] for name in content["tensors"]}
        personal = {client: select_prefix(tensors, f"personal/{client}") for client in content["clients_with_state"]}
        state = ServerState(int(content["round"]), select_prefix(tensors, "state"))
        records, counted = read_records(content["records"], folder), content.get("federated_before")
        before = FederatedAccuracy.from_dict(counted) if counted else None
        hits = select_prefix(tensors, "own_hits")
        own_hits = ClientHits(**hits) if hits else None
        return Progress(state, personal, records, select_prefix(tensors, "memory"), before, own_hits)
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise RunError(
            f"The checkpoint {folder} is damaged: {error}.",
            f"Delete this folder (`rm -r {shlex.quote(str(folder))}`) and resume: the run continues from the "
            "previous checkpoint, or from the start if there is none.",
        ) from None


def _require_format(folder: Path, content: dict[str, Any]) -> None:
    """Raise RunError for a checkpoint of another version, whose tensors have other names."""
    if content.get("format") != FORMAT:
        raise RunError(
            f"The checkpoint {folder} was written by another version of feddtl: its format is "
            f"{content.get('format', 1)!r}, not {FORMAT}.",
            "Use that version, or start a new run with another --output.",
        )


def _digest(path: Path) -> str:
    return hashlib.sha256(read_whole(path)).hexdigest()
