"""`feddtl report`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from feddtl.checks import require
from feddtl.cli.command import Command
from feddtl.cli.flags import STATED, RunFolder
from feddtl.cli.printing import print_aside, print_json, print_note, print_text
from feddtl.errors import ConfigError, RunError
from feddtl.units import counted, size

PORT = 8765


@dataclass(frozen=True)
class Report(Command):
    """Write one self-contained HTML page from a run folder, or from a folder with several runs."""

    folder: RunFolder = Path("runs")
    """Folder of a run, or a folder with run folders up to three levels below it."""
    serve: bool = False
    """Write no file: show the page in a browser of this machine, and follow the runs until Ctrl-C."""
    port: Annotated[int | None, tyro.conf.arg(metavar="PORT", help_behavior_hint=STATED)] = None
    """Port of the page with --serve, on this machine alone; default: 8765; 0: any that is free."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint=STATED)] = None
    """File of the page; default: DIR/report.html."""
    no_images: bool = False
    """Omit the test images; by default, the page shows some of them."""
    images_of: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SOURCE [SOURCE ...]", help_behavior_hint=STATED)] = ()
    """Sources whose images the page may show, as the runs name them (data.root or data.source). A run folder of
    somebody else could name any folder of yours, so no other source is read; 'shapes' is drawn in any case."""
    json: bool = False
    """Print the path and size of the page, and unreadable files, as JSON."""

    def opening(self) -> str:
        return "" if self.json else f"reading the runs in {self.folder} …"

    def execute(self) -> int:
        """Write the page and print its path; unreadable files are listed on standard error."""
        from feddtl.report import write_report

        if self.serve:
            return self._serve()
        if self.port is not None:
            raise ConfigError("--port has no effect without --serve.", "Add --serve, or omit it.")
        written = write_report(self.folder, self.output, images=not self.no_images, images_of=self.images_of)
        for problem in written.problems:
            print_note(problem)
        for source in written.unconfirmed:
            print_note(
                f"The page shows no images of {source}. If you trust the run folder, add "
                f"`--images-of {shlex.quote(source)}`."
            )
        if self.json:
            print_json({**vars(written), "path": str(written.path)})
        else:
            print_text(f"report of {counted(written.runs, 'run')}, {size(written.bytes)}: {written.path}")
        return 0

    def _serve(self) -> int:
        from feddtl.report.following import FollowedRuns
        from feddtl.report.serving import PageServer
        from feddtl.storage import storage_errors

        if self.output or self.json:
            flag = "--output" if self.output else "--json"
            raise ConfigError(f"{flag} has no effect with --serve.", "Omit one of them.")
        require(self.port is None or 0 <= self.port < 2**16, "--port", self.port, "0 to 65535")
        with storage_errors(self.folder):
            if not self.folder.is_dir():
                raise RunError(
                    f"There is no folder {self.folder}.", "Pass the folder that contains, or will contain, runs."
                )
        runs = FollowedRuns(self.folder, images=not self.no_images, images_of=self.images_of)
        with PageServer(runs, PORT if self.port is None else self.port) as server:
            try:
                print_text(f"{self.folder} is shown at {server.address} until Ctrl-C")
                server.serve_forever()
            except KeyboardInterrupt:
                print_aside("ended; running runs continue")
        return 0
