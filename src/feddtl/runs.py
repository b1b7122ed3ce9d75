"""Run folders: the experiment, the record of each round, checkpoints and results."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from feddtl.absolute_paths import with_absolute_paths
from feddtl.checkpoints import add_checkpoint, drop_checkpoint, latest_checkpoint
from feddtl.config import Experiment
from feddtl.environment import describe_environment
from feddtl.errors import FeddtlError, RunError, shown
from feddtl.experiment_file import experiment_to_dict, settings_by_key
from feddtl.extension import require_extendable
from feddtl.models.kernels import Kernels, as_kernels, names_of
from feddtl.models.lora import Lora, Tensors
from feddtl.models.peft_format import save_adapter
from feddtl.predictions import ImagePredictions, read_predictions, write_predictions
from feddtl.records import RESTORE, RoundRecord, Summary
from feddtl.run_files import (
    BEFORE_IT_BEGINS,
    CONFIG,
    DATA,
    ENVIRONMENT,
    FEDERATION,
    METRICS,
    PREDICTIONS,
    SUMMARY,
    has_begun,
    read_data,
    read_experiment,
    read_metrics,
    read_summary,
    read_table,
    refuse_used,
    require_run,
    resuming,
)
from feddtl.run_origin import write_origin
from feddtl.run_status import refuse_running
from feddtl.runtimes.rounds import Progress
from feddtl.sealed_files import sealed_lines, write_sealed
from feddtl.storage import (
    json_text,
    make_folder,
    new_folder,
    only_writer,
    remove_drafts,
    storage_errors,
    write_text_atomic,
)

# The machine and device do not change the identity of a run.
FREE_ON_RESUME = (
    "deployment.min_clients",
    "deployment.round_timeout",
    "uplink.max_update_norm",
    "compute.device",
    "compute.clients_together",
    "compute.loading_threads",
    "compute.cache_folder",
    "compute.cache_disk_gb",
    "compute.cache_memory_gb",
)


class RunFolder:
    """One run's folder.

    Args:
        path: The folder; see `announced`, `resumed` and `open`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checkpoints = path / "checkpoints"

    @classmethod
    @contextmanager
    def announced(cls, path: Path, experiment: Experiment) -> Iterator[RunFolder]:
        """A folder with only the experiment, so that a run killed during preparation can be resumed.

        It is locked inside the block. If an error ends the block before `begin` was called, the folder is removed.
        """
        refuse_running(path)
        refuse_used(path)
        fresh = not path.exists()
        with storage_errors(path):
            make_folder(path)
        folder = cls(path)
        with only_writer(path):
            try:
                folder._remove_drafts()
                write_sealed(path / CONFIG, experiment_to_dict(experiment))
                yield folder
            except FeddtlError:
                if not folder.has_begun:
                    folder._withdraw(fresh)
                raise

    @classmethod
    @contextmanager
    def resumed(cls, path: Path, experiment: Experiment, *, extend: bool = False) -> Iterator[RunFolder]:
        """An existing run of this experiment, even if only announced, locked by this process.

        With `extend`, the experiment may have another number of rounds, see `extend`.
        """
        folder = cls.find(path)
        refuse_running(path)
        before = folder.experiment
        longer = extend and experiment.trains and experiment.rounds != before.rounds
        folder.require_same(experiment, free=("rounds",) if longer else ())
        with only_writer(path):
            folder._remove_drafts()
            if longer:
                folder.require_extendable(experiment)
            yield folder

    @classmethod
    def find(cls, path: Path) -> RunFolder:
        """An existing run, even if only announced. Raises RunError if there is none."""
        require_run(path)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run that began. Raises RunError if there is none."""
        folder = cls.find(path)
        if not folder.has_begun:
            raise RunError(f"The run in {path} was stopped before its first round.", f"Resume it: {resuming(path)}.")
        return folder

    @property
    def has_begun(self) -> bool:
        """Whether everything was loaded and the rounds could start."""
        return has_begun(self.path)

    @property
    def experiment(self) -> Experiment:
        """The experiment of the run."""
        return read_experiment(self.path / CONFIG)

    @property
    def data(self) -> dict[str, Any]:
        """Description of the data: names, prompt, partition counts."""
        return read_data(self.path / DATA)

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, device and kernels at the start of the run."""
        return read_table(self.path / ENVIRONMENT)

    @property
    def kernels(self) -> Kernels:
        """Precision and kernels of the run, so that it continues with the same arithmetic."""
        try:
            chosen = self.environment["kernels"]
            kernels = as_kernels(chosen["precision"], chosen["attention"])
            # Earlier versions did not say why.
            return replace(kernels, chosen=chosen.get("chosen", "default"))
        except (KeyError, TypeError, AttributeError):
            raise RunError(
                f"{self.path / ENVIRONMENT} was written by another version: it does not name the kernels.",
                "Use that version, or start a new run.",
            ) from None

    def require_same(self, experiment: Experiment, free: Sequence[str] = ()) -> None:
        """Raise RunError naming every key in which an experiment differs from this run's, unless only in free ones."""
        mine, asked = (_identity(e) for e in (self.experiment, experiment))
        different = [key for key in mine if mine[key] != asked[key] and key not in FREE_ON_RESUME]
        if set(different) - set(free):
            listed = "; ".join(f"{key} is {mine[key]!r} there, {asked[key]!r} here" for key in different)
            raise RunError(
                f"{self.path} is the run of another experiment: {listed}.",
                "Resume without these flags, or start a new run with another --output.",
            )

    def begin(
        self,
        data: Mapping[str, Any],
        device: torch.device,
        kernels: Kernels,
        identity: Mapping[str, Any],
        start: Progress | None = None,
        started_from: Mapping[str, Any] | None = None,
    ) -> None:
        """Write what the run is made from; if it already began, the data must be the same.

        Args:
            data: Description of the data.
            device: Where the run computes.
            kernels: How its blocks compute.
            identity: `Backbone.identity` of its model.
            start: Where it starts, if that cannot be computed again: its first checkpoint.
            started_from: What it took from another run, see `feddtl.starting_point`.

        Raises:
            RunError: The images, their classes or their partition have changed since the run began.
        """
        if not self.has_begun:
            environment = {
                **describe_environment(device),
                "kernels": {**names_of(kernels), "chosen": kernels.chosen},
            }
            write_sealed(self.path / ENVIRONMENT, environment)
            write_origin(self.path, identity, started_from)
            if start is not None:
                add_checkpoint(self._checkpoints, start)
            write_sealed(self.path / DATA, data)
            return
        before = self.data
        changed = [key for key in data if key != "notes" and data[key] != before.get(key)]
        if changed:
            raise RunError(
                f"The data of {self.path} have changed since the run began: {', '.join(changed)}.",
                "Restore the images to resume, or start a new run with another --output.",
            )

    def require_extendable(self, experiment: Experiment) -> None:
        """Raise RunError unless the run can get the rounds of this experiment, otherwise the same as its own."""
        latest = self.latest_progress()
        require_extendable(self.path, self.experiment, experiment, latest.state.round if latest else 0)

    def extend(self, experiment: Experiment) -> None:
        """Give the run the rounds of this experiment; it then continues from a checkpoint that fits both numbers.

        The record of a last round differs from that of an earlier one: it is always scored, by all clients. It is
        therefore run again. A process that is killed in between leaves a run of the old number that can be resumed.

        Raises:
            RunError: See `require_extendable`, or the checkpoint to continue from is damaged.
        """
        before = self.experiment
        self.require_extendable(experiment)
        with storage_errors(self.path):
            # The summary first: without it, a run is not finished, and what follows is written again.
            (self.path / SUMMARY).unlink(missing_ok=True)
            (self.path / PREDICTIONS).unlink(missing_ok=True)
        drop_checkpoint(self._checkpoints, before.rounds)
        write_sealed(self.path / CONFIG, experiment_to_dict(experiment))

    def name_among_clients(self) -> str:
        """32 random hexadecimal digits, drawn once: the name under which remote clients store data of this run."""
        path = self.path / FEDERATION
        if not path.is_file():
            write_sealed(path, {"run": secrets.token_hex(16)})
        name = read_table(path).get("run")
        if not isinstance(name, str):
            raise RunError(f"{path} is damaged: run is {shown(name, 40)}.", RESTORE)
        return name

    def save_progress(self, progress: Progress) -> None:
        """Write the round's record and a checkpoint, then remove all but the latest two."""
        self.write_metrics(progress.records)
        add_checkpoint(self._checkpoints, progress)

    def latest_progress(self) -> Progress | None:
        """The latest checkpoint, or None before the first. Raises RunError with a remedy if it is damaged."""
        return latest_checkpoint(self._checkpoints)

    def write_metrics(self, records: tuple[RoundRecord, ...]) -> None:
        """metrics.jsonl with one line per round; null for numbers that were not measured."""
        lines = sealed_lines(json_text(record.to_dict(), indent=None) for record in records)
        write_text_atomic(self.path / METRICS, lines)

    @property
    def records(self) -> tuple[RoundRecord, ...]:
        """One record per finished round. Raises RunError if damaged, or of another version."""
        return read_metrics(self.path)

    @property
    def predictions(self) -> ImagePredictions | None:
        """Predictions for every test image; None until the rounds are finished, or in runs of an earlier version."""
        path = self.path / PREDICTIONS
        return read_predictions(path) if path.is_file() else None

    def write_predictions(self, predictions: ImagePredictions) -> None:
        """predictions.safetensors."""
        write_predictions(self.path / PREDICTIONS, predictions)

    @property
    def summary(self) -> Summary | None:
        """The summary; None until the run is finished. Raises RunError if it cannot be read."""
        return read_summary(self.path)

    def write_summary(self, summary: Summary) -> None:
        """summary.json."""
        write_sealed(self.path / SUMMARY, summary.to_dict())

    def write_adapters(self, adapters: Mapping[str, Lora], base_model: str) -> None:
        """adapter/image and adapter/text in PEFT format, if there are adapters."""
        if not adapters:
            return
        with new_folder(self.path / "adapter", replace=True) as draft:
            for tower, lora in adapters.items():
                save_adapter(draft / tower, lora, base_model)

    def write_tensors(self, shared: Tensors, personal: Mapping[int, Tensors], metadata: Mapping[str, str]) -> None:
        """tensors/shared.safetensors, and e.g. tensors/client-3.safetensors for each client with personal tensors.

        Writes nothing if the server has none.
        """
        if not shared:
            return
        files = {"shared": shared}
        files |= {f"client-{client}": own for client, own in personal.items()}
        with new_folder(self.path / "tensors", replace=True) as draft:
            for name, tensors in files.items():
                # Copies, because the format refuses tensors that share memory.
                copies = {key: tensor.clone() for key, tensor in tensors.items()}
                save_file(copies, draft / f"{name}.safetensors", dict(metadata))

    def _remove_drafts(self) -> None:
        for folder in (self.path, self._checkpoints):
            remove_drafts(folder)

    def _withdraw(self, folder_too: bool) -> None:
        with storage_errors(self.path):
            for name in BEFORE_IT_BEGINS:
                (self.path / name).unlink(missing_ok=True)
            shutil.rmtree(self._checkpoints, ignore_errors=True)
            self._remove_drafts()
            if folder_too:
                self.path.rmdir()


def _identity(experiment: Experiment) -> dict[str, Any]:
    """Every key with what 'auto' stands for, so that 'half' and an 'auto' that means 'half' are equal.

    A relative path of an earlier version is compared as if it were of this working folder.
    """
    here = with_absolute_paths(experiment)
    values = {**settings_by_key(here), "model": here.model_name}
    if not experiment.data.has_class_lists:
        values["data.class_split"] = experiment.data.split
    return values
