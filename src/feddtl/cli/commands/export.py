"""`feddtl export`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from feddtl.cli.command import Command


@dataclass(frozen=True)
class Export(Command):
    """Write the adapted CLIP as a plain Hugging Face model, adapters merged into the weights."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder of the run."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """New folder of the merged model, for CLIPModel.from_pretrained."""

    def execute(self) -> int:
        """Write the merged model and print how to load it."""
        from feddtl.export import export_merged

        export_merged(self.folder, self.output, lambda text: print(f"note: {text}", file=sys.stderr))
        print(f"{self.output} contains the adapted CLIP; load it with CLIPModel.from_pretrained('{self.output}').")
        return 0
