"""Federated methods by their name in an experiment file."""

from __future__ import annotations

from feddtl.algorithms.base import Algorithm, Task
from feddtl.algorithms.fedclip import FedCLIP
from feddtl.algorithms.feddtl import FedDTL
from feddtl.algorithms.fedlora import FedLoRA
from feddtl.algorithms.fedmaple import FedMaPLe
from feddtl.algorithms.fedpgp import FedPGP
from feddtl.algorithms.pfedmma import PFedMMA
from feddtl.algorithms.promptfl import PromptFL
from feddtl.algorithms.zeroshot import ZeroShot
from feddtl.config import Experiment

METHODS: dict[str, type[Algorithm]] = {
    "feddtl": FedDTL,
    "fedlora": FedLoRA,
    "promptfl": PromptFL,
    "fedmaple": FedMaPLe,
    "fedpgp": FedPGP,
    "pfedmma": PFedMMA,
    "fedclip": FedCLIP,
    "zero-shot": ZeroShot,
}


def build_algorithm(task: Task, experiment: Experiment) -> Algorithm:
    """The experiment's method on this task."""
    return METHODS[experiment.method](task, experiment)
