"""Versions, device and disk, for run folders and `feddtl doctor`."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from feddtl.errors import ConfigError

PACKAGES = ("feddtl", "torch", "transformers", "datasets", "numpy", "safetensors", "pillow")
DEVICE_NAMES = "'auto', 'cpu', 'cuda', 'cuda:1', 'mps'"


def package_versions() -> dict[str, str]:
    """Installed version by package; 'missing' if it is not installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def describe_environment(device: torch.device | None = None) -> dict[str, Any]:
    """The environment needed to repeat a run on a device, by default the one that 'auto' selects."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": str(device or choose_device("auto")),
        "packages": package_versions(),
    }


def choose_device(name: str) -> torch.device:
    """Device with a name; 'auto' selects a CUDA GPU, else Apple's MPS, else the CPU.

    Raises:
        ConfigError: The name is unknown or the device is not available.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"compute.device = {name!r} is not a device.", f"Allowed: {DEVICE_NAMES}.") from None
    if device.type not in ("cpu", "cuda", "mps", "xpu"):
        raise ConfigError(f"compute.device = {name!r} is not a supported device.", f"Allowed: {DEVICE_NAMES}.")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"compute.device = {name!r} cannot be used: {reason}", "Use 'auto' or 'cpu'.") from None
    return device
