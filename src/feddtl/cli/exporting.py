"""`feddtl export`."""

from __future__ import annotations

from feddtl.cli.commands import Export
from feddtl.export import export_merged


def export(command: Export) -> int:
    """Write the merged model and say how to load it."""
    export_merged(command.folder, command.output)
    print(f"{command.output} holds the adapted CLIP; load it with CLIPModel.from_pretrained('{command.output}').")
    return 0
