"""A run is a folder of facts: what was asked, what happened each round, where it stands, what came out.

config.json  environment.json  data.json  metrics.jsonl  summary.json
checkpoints/round-0007/{state.safetensors, progress.json}
adapter/{visual, text}/     in PEFT's format
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from feddtl.algorithms.base import ServerState
from feddtl.algorithms.naming import select, under
from feddtl.config import Experiment
from feddtl.environment import describe_environment
from feddtl.errors import ConfigError, RunError
from feddtl.experiment_file import experiment_from_dict, experiment_to_dict, flatten
from feddtl.models.lora import Lora
from feddtl.models.peft_format import save_adapter
from feddtl.runtimes.local import Progress, Record
from feddtl.storage import new_folder, storage_errors, write_json_atomic, write_text_atomic

KEPT_CHECKPOINTS = 2
# Where a run is computed does not change what it is.
FREE_ON_RESUME = ("compute.device", "compute.loading_threads")


class RunFolder:
    """One run's folder.

    Args:
        path: The folder; see `create` and `open`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def refuse_used(path: Path) -> None:
        """Raise RunError if a new run at `path` would overwrite anything."""
        if path.is_file():
            raise RunError(f"{path} is a file.", "Give another --output.")
        if path.is_dir() and any(path.iterdir()):
            if (path / "config.json").is_file():
                raise RunError(
                    f"{path} already holds a run; nothing was changed.",
                    f"Go on with it: feddtl run --resume {path}. Or give another --output.",
                )
            raise RunError(f"{path} is not empty; nothing was changed.", "Give another --output.")

    @classmethod
    def create(cls, path: Path, experiment: Experiment, data: Mapping[str, Any]) -> RunFolder:
        """New folder with the resolved experiment, the environment and what the data looks like."""
        cls.refuse_used(path)
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path / "environment.json", describe_environment())
        write_json_atomic(path / "data.json", data)
        # Last: a folder with this file is a run.
        write_json_atomic(path / "config.json", experiment_to_dict(experiment))
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Existing run. Raises RunError if there is none."""
        if not (path / "config.json").is_file():
            raise RunError(
                f"There is no run in {path}.", "Give the --output folder of an earlier run (it has a config.json)."
            )
        return cls(path)

    @property
    def experiment(self) -> Experiment:
        """The experiment this folder belongs to."""
        return _read_experiment(self.path / "config.json")

    @property
    def data(self) -> dict[str, Any]:
        """What the data looked like: names, prompt, partition counts."""
        return dict(_read_json(self.path / "data.json"))

    def require_same(self, experiment: Experiment) -> None:
        """Raise RunError naming every key in which an experiment differs from this run's."""
        mine, asked = (flatten(experiment_to_dict(e)) for e in (self.experiment, experiment))
        different = [key for key in mine if mine[key] != asked[key] and key not in FREE_ON_RESUME]
        if different:
            listed = "; ".join(f"{key} is {mine[key]!r} there, {asked[key]!r} here" for key in different)
            raise RunError(
                f"{self.path} is the run of another experiment: {listed}.",
                "Resume without these flags, or start a new run with another --output.",
            )

    def save_progress(self, progress: Progress) -> None:
        """Write the round's record and a checkpoint, then drop all but the latest two."""
        self.write_metrics(progress.records)
        folder = self._checkpoint(progress.state.round)
        tensors = under("state", progress.state.tensors)
        for client, personal in progress.personal.items():
            tensors |= under(f"personal/{client}", personal)
        with new_folder(folder) as draft:
            # Copies: the anchor may share memory with the adapter, which the format refuses.
            save_file({name: tensor.clone() for name, tensor in tensors.items()}, draft / "state.safetensors")
            content = {
                "round": progress.state.round,
                "clients_with_state": sorted(progress.personal),
                "state_sha256": _digest(draft / "state.safetensors"),
                "records": list(progress.records),
            }
            (draft / "progress.json").write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
        for old in self._checkpoints()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old, ignore_errors=True)

    def latest_progress(self) -> Progress | None:
        """The latest checkpoint, or None before the first.

        Raises:
            RunError: It is damaged; the message says how to fall back to the one before.
        """
        found = self._checkpoints()
        return _read_checkpoint(found[-1]) if found else None

    def write_metrics(self, records: tuple[Record, ...]) -> None:
        """metrics.jsonl with one line per round."""
        lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        write_text_atomic(self.path / "metrics.jsonl", lines)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """summary.json."""
        write_json_atomic(self.path / "summary.json", summary)

    def write_adapters(self, adapters: Mapping[str, Lora], base_model: str) -> None:
        """adapter/visual and adapter/text in PEFT's format."""
        if not adapters:
            return
        shutil.rmtree(self.path / "adapter", ignore_errors=True)
        with new_folder(self.path / "adapter") as draft:
            for tower, lora in adapters.items():
                save_adapter(draft / tower, lora, base_model)

    def _checkpoint(self, round_number: int) -> Path:
        return self.path / "checkpoints" / f"round-{round_number:04d}"

    def _checkpoints(self) -> list[Path]:
        return sorted((self.path / "checkpoints").glob("round-*"))


def _read_checkpoint(folder: Path) -> Progress:
    try:
        content = _read_json(folder / "progress.json")
        if _digest(folder / "state.safetensors") != content["state_sha256"]:
            raise ValueError("state.safetensors does not match its checksum")
        tensors = load_file(folder / "state.safetensors")
        personal = {client: select(tensors, f"personal/{client}") for client in content["clients_with_state"]}
        state = ServerState(int(content["round"]), select(tensors, "state"))
        return Progress(state, personal, tuple(content["records"]))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, RunError) as error:
        raise RunError(
            f"The checkpoint {folder} is damaged: {error}",
            f"Delete that folder (rm -r '{folder}') and resume: the run goes on from the checkpoint before it.",
        ) from None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"Cannot read {path}: {error}.", "Start a new run with another --output.") from None


def _read_experiment(path: Path) -> Experiment:
    try:
        return experiment_from_dict(_read_json(path))
    except ConfigError as error:
        raise RunError(
            f"{path} was written by another version: {error.message}", "Use that version, or start a new run."
        ) from None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
