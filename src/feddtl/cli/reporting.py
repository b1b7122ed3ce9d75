"""`feddtl report`."""

from __future__ import annotations

import sys

from feddtl.cli.commands import Report
from feddtl.report import write_report
from feddtl.storage import json_text
from feddtl.units import counted, size


def report(command: Report) -> int:
    """Write the page and say where it is; what could not be read is noted on standard error."""
    written = write_report(command.folder, command.output, images=not command.no_images)
    for problem in written.problems:
        print(f"note: {problem}", file=sys.stderr)
    if command.json:
        print(json_text({**vars(written), "path": str(written.path)}), end="")
    else:
        print(f"report of {counted(written.runs, 'run')}, {size(written.bytes)}: {written.path}")
    return 0
