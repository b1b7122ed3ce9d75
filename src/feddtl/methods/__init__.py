"""Federated methods by their name in an experiment file."""

from __future__ import annotations

from feddtl.config import Experiment
from feddtl.methods.base import Method, Task
from feddtl.methods.fedclip.method import FedCLIP
from feddtl.methods.feddtl.method import FedDTL
from feddtl.methods.fedlora.method import FedLoRA
from feddtl.methods.fedmaple.method import FedMaPLe
from feddtl.methods.fedpgp.method import FedPGP
from feddtl.methods.pfedmma.method import PFedMMA
from feddtl.methods.promptfl.method import PromptFL
from feddtl.methods.zero_shot.method import ZeroShot

METHODS: dict[str, type[Method]] = {
    "feddtl": FedDTL,
    "fedlora": FedLoRA,
    "promptfl": PromptFL,
    "fedmaple": FedMaPLe,
    "fedpgp": FedPGP,
    "pfedmma": PFedMMA,
    "fedclip": FedCLIP,
    "zero-shot": ZeroShot,
}


def build_method(task: Task, experiment: Experiment) -> Method:
    """The experiment's method on this task."""
    return METHODS[experiment.method](task, experiment)
