"""`feddtl doctor`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from feddtl.cli.command import Command
from feddtl.cli.printing import print_json
from feddtl.errors import FeddtlError
from feddtl.units import counted, size

LEAST_FREE_GIGABYTES = 1.0


@dataclass(frozen=True)
class Doctor(Command):
    """Check the installation: versions, device, model cache, disk."""

    json: bool = False
    """Print the findings as JSON."""

    def opening(self) -> str:
        return "" if self.json else "checking packages, device and model …"

    def execute(self) -> int:
        """Print the findings; exit code 1 if something does not work."""
        findings = {name: _finding(check) for name, check in CHECKS.items()}
        if self.json:
            print_json({name: {"ok": ok, "found": text} for name, (ok, text) in findings.items()})
        else:
            _print(findings)
        return 0 if all(ok for ok, _ in findings.values()) else 1


def _print(findings: dict[str, tuple[bool, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from feddtl.cli.scores import cell

    table = Table(show_header=False)
    for name, (ok, text) in findings.items():
        table.add_row("[green]ok[/]" if ok else "[red]problem[/]", name, cell(text))
    Console().print(table)


def _finding(check: Callable[[], tuple[bool, str]]) -> tuple[bool, str]:
    try:
        return check()
    except (FeddtlError, OSError, RuntimeError, ImportError) as error:
        return False, str(error)


def _versions() -> tuple[bool, str]:
    from feddtl.environment import describe_environment

    packages = describe_environment()["packages"]
    text = ", ".join(f"{name} {number}" for name, number in packages.items())
    return "missing" not in packages.values(), text


def _python() -> tuple[bool, str]:
    from feddtl.environment import describe_environment

    environment = describe_environment()
    return True, f"{environment['python']} on {environment['platform']}"


def _device() -> tuple[bool, str]:
    from feddtl.environment import describe_environment

    environment = describe_environment()
    cores, threads = counted(environment["cpus"], "CPU"), counted(environment["torch_threads"], "torch thread")
    return True, f"{environment['device']}, {cores}, {threads}"


def _model() -> tuple[bool, str]:
    from feddtl.backbones.catalog import load_backbone
    from feddtl.backbones.source import EMBEDDED

    clip = load_backbone(EMBEDDED)
    return True, f"{EMBEDDED}: {len(clip.image.stack)} image and {len(clip.text.stack)} text blocks"


def _hub_cache() -> tuple[bool, str]:
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    cache = Path(HF_HUB_CACHE)
    kept = len(list(cache.glob("*--*"))) if cache.is_dir() else 0
    mode = "offline (HF_HUB_OFFLINE is set)" if HF_HUB_OFFLINE else "online"
    return True, f"{cache}, {kept} repositories kept, {mode}"


def _activations() -> tuple[bool, str]:
    from feddtl.models.cache.folder import cache_contents, cache_folder

    folder = cache_folder()
    if folder is None:
        return True, "none: every run recomputes the frozen blocks"
    kept = sum(entry.nbytes for entry in cache_contents(folder))
    return True, f"{folder}, {size(kept)} kept (`feddtl cache` shows more)"


def _disk() -> tuple[bool, str]:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    return free >= LEAST_FREE_GIGABYTES and os.access(Path.cwd(), os.W_OK), f"{free:.1f} GB free in {Path.cwd()}"


CHECKS: dict[str, Callable[[], tuple[bool, str]]] = {
    "python": _python,
    "packages": _versions,
    "device": _device,
    "embedded model": _model,
    "Hub cache": _hub_cache,
    "activation cache": _activations,
    "disk": _disk,
}
