"""`feddtl export`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from feddtl.cli.command import Command
from feddtl.cli.flags import RunFolder
from feddtl.cli.printing import print_note, print_text
from feddtl.errors import ConfigError


@dataclass(frozen=True)
class Export(Command):
    """Write the model of a run for other programs, with its classes and a model card."""

    folder: RunFolder
    """Folder of the run."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """New folder of the export."""
    format: Literal["transformers", "onnx", "embeddings"] = "transformers"
    """transformers: a plain Hugging Face CLIP, adapters merged into the weights; onnx: both towers and a classifier of
    the run's classes, without torch; embeddings: the text embeddings of these classes."""
    push: Annotated[str, tyro.conf.arg(metavar="OWNER/NAME")] = ""
    """Upload the export to this repository of the Hugging Face Hub, after a question; empty: no upload."""
    private: bool = False
    """With --push: only you can read the repository; without it, everybody can."""
    yes: bool = False
    """With --push: upload without the question."""

    def opening(self) -> str:
        return f"loading the model of {self.folder} …"

    def execute(self) -> int:
        """Write the export, print how to use it, and upload it where that was asked for."""
        from feddtl.run_files import require_run

        require_run(self.folder)  # before the seconds that the next lines take
        self._check_push()
        from feddtl.export import export_class_embeddings, export_merged, export_onnx

        export = {"transformers": export_merged, "onnx": export_onnx, "embeddings": export_class_embeddings}
        export[self.format](self.folder, self.output, print_note)
        print_text(self._use())
        if self.push:
            self._upload()
        return 0

    def _use(self) -> str:
        if self.format == "transformers":
            return f"{self.output} contains the adapted CLIP; load it with CLIPModel.from_pretrained('{self.output}')."
        if self.format == "onnx":
            script = shlex.quote(str(self.output / "classify.py"))
            return f"{self.output} contains the ONNX models; try them without torch: python {script} IMAGE"
        return f"{self.output} contains class_embeddings.safetensors and the classes in classes.json."

    def _check_push(self) -> None:
        """Raise ConfigError for flags of an upload that will not be, before anything is computed."""
        from feddtl.export.hub import require_repository_name

        if not self.push:
            if self.private or self.yes:
                flag = "--private" if self.private else "--yes"
                raise ConfigError(f"{flag} has no effect without --push.", "Add --push OWNER/NAME, or omit it.")
            return
        require_repository_name(self.push)
        if not (self.yes or sys.stdin.isatty()):
            raise ConfigError(
                "--push asks before it uploads, and there is no terminal to answer on; nothing was done.",
                "Add --yes to upload without the question.",
            )

    def _upload(self) -> None:
        from feddtl.export.hub import described_upload, push

        print_text("\n".join(described_upload(self.output, self.push, private=self.private)))
        if not self.yes and input("Upload? [y/N] ").strip().lower() not in ("y", "yes"):
            print_text(f"Nothing was uploaded; {self.output} is complete.")
            return
        print_text(f"Uploaded: {push(self.output, self.push, private=self.private)}")
