"""The numbers of a run as event files of TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from feddtl.config import Experiment
from feddtl.experiment_file import settings_by_key
from feddtl.storage import storage_errors
from feddtl.trackers.tracker import Tracker


class TensorBoard(Tracker):
    """Event files in `tensorboard`, a subfolder of the run's folder; a resumed run replaces them."""

    name = "tensorboard"

    def open(self, experiment: Experiment) -> None:
        folder = self._folder / self.name
        settings = settings_by_key(experiment).items()
        with storage_errors(folder):
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
            self._writer = SummaryWriter(str(folder))
            self._writer.add_text("settings", "\n".join(f"    {key} = {value!r}" for key, value in settings), 0)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        with storage_errors(self._folder / self.name):
            for tag, value in scalars.items():
                self._writer.add_scalar(tag, value, step)
            self._writer.flush()

    def picture(self, title: str, path: Path) -> None:
        with Image.open(path) as image, storage_errors(self._folder / self.name):
            self._writer.add_image(title, np.asarray(image.convert("RGB")), dataformats="HWC")

    def close(self, *, finished: bool) -> None:
        with storage_errors(self._folder / self.name):
            self._writer.close()
