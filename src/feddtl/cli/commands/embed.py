"""`feddtl embed`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from feddtl.checks import names_a_file
from feddtl.cli.command import Command
from feddtl.cli.flags import STATED, DeviceFlag, RunFolder
from feddtl.cli.many_images import ImageFiles, utf8
from feddtl.cli.printing import print_note, print_text
from feddtl.config.class_lists import lines_of_file
from feddtl.errors import ConfigError
from feddtl.units import counted

if TYPE_CHECKING:
    from torch import Tensor

    from feddtl.trained_model import TrainedModel


@dataclass(frozen=True)
class Embed(Command):
    """Write unit embeddings of images or texts, as the model of a run sees them."""

    folder: RunFolder
    """Folder of the run."""
    output: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """File to write: .npz or .parquet."""
    images: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[IMAGES ...]", help_behavior_hint=STATED)
    ] = ()
    """Image files, and folders with images at any depth."""
    texts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT [TEXT ...]", help_behavior_hint=STATED)] = ()
    """Texts to embed instead of images, by default as they are, without a prompt; @FILE stands for one text a line."""
    prompt: Annotated[str, tyro.conf.arg(help_behavior_hint=STATED)] = ""
    """Prompt with {class} in place of each text; several, one a line or in @FILE, are averaged; 'ensemble': the usual
    ones of the run's data set; default: none."""
    skip_damaged: bool = False
    """Name images that cannot be read and go on without them; by default, they are an error."""
    device: DeviceFlag = "auto"
    """'auto', 'cpu', 'cuda', 'mps'."""

    def opening(self) -> str:
        return f"loading the model of {self.folder} …"

    def execute(self) -> int:
        """Write the file and print its path."""
        from feddtl.run_files import require_run

        require_run(self.folder)  # before the seconds that the next line takes
        from feddtl.embedding_files import require_format, write_embeddings
        from feddtl.trained_model import load_trained_model

        require_format(self.output)
        if bool(self.images) == bool(self.texts):
            raise ConfigError("Embed either images or texts.", "Name images, or give texts with --texts.")
        if self.prompt and not self.texts:
            raise ConfigError(f"--prompt '{self.prompt}' is for texts, and there are images.", "Leave it out.")
        texts = self._all_texts()
        files = ImageFiles(self.images, skip_damaged=self.skip_damaged) if self.images else None
        model = load_trained_model(self.folder, self.device, self.prompt, print_note)
        if note := model.note_on_clients:
            print_note(note)
        width = model.embedding_width
        if files is None:
            embeddings = model.encode_texts(texts, in_prompt=bool(self.prompt))
            count = write_embeddings(self.output, "text", [(texts, embeddings)], width)
        else:
            count = write_embeddings(self.output, "image", _of_images(model, files), width)
        what = counted(count, "text" if files is None else "image")
        print_text(f"{self.output} contains the embeddings of {what}, {width} numbers each.")
        return 0

    def _all_texts(self) -> Sequence[str]:
        """The texts, with the lines of each file in its place. Raises ConfigError."""
        found: list[str] = []
        for text in self.texts:
            found += lines_of_file(text, "texts", "text") if names_a_file(text) else [text]
        return found


def _of_images(model: TrainedModel, files: ImageFiles) -> Iterator[tuple[list[str], Tensor]]:
    """Names and embeddings, some at a time, with a bar."""
    done = 0
    with files.read(bar=True) as progress:
        for images, embeddings in model.image_embeddings(files.images(), files.damaged):
            yield [utf8(image.name) for image in images], embeddings
            done += len(images)
            progress(done)
