"""Federated fine-tuning of CLIP: images stay on the clients, one model understands all of them.

Names are imported on first use, so that `import feddtl` is instant. A run in Python:

    import feddtl

    experiment = feddtl.Experiment(rounds=4, data=feddtl.DataConfig(source="photos", clients=3))
    summary = feddtl.run_experiment(experiment, "runs/photos")
    model = feddtl.load_trained_model("runs/photos")
    model.predict("picture.jpg", ["red star", "blue ring"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feddtl.backbones.catalog import load_backbone
    from feddtl.backbones.clip import Clip, load_clip
    from feddtl.comparison.files import Comparison, load_comparison
    from feddtl.comparison.grid import ComparisonObserver, compare
    from feddtl.comparison.tuning import Tuning
    from feddtl.config import (
        AttackConfig,
        ComputeConfig,
        DataConfig,
        EvaluationConfig,
        Experiment,
        LocalConfig,
        LoraConfig,
        RlConfig,
        ScheduleConfig,
        ServerConfig,
        SystemConfig,
        UplinkConfig,
    )
    from feddtl.data.federated import FederatedData, load_federated_data
    from feddtl.data.listing import list_images
    from feddtl.errors import FeddtlError
    from feddtl.experiment import run_experiment
    from feddtl.experiment_file import load_experiment, load_experiments
    from feddtl.export import export_class_embeddings, export_merged, export_onnx
    from feddtl.models.backbone import Backbone
    from feddtl.observers import Observers, RunObserver
    from feddtl.records import RoundRecord, Summary
    from feddtl.scoring import score_run
    from feddtl.trained_model import Prediction, TrainedModel, load_trained_model

    __version__: str

_HOMES = {
    "feddtl.backbones.catalog": ("load_backbone",),
    "feddtl.backbones.clip": ("Clip", "load_clip"),
    "feddtl.comparison.files": ("Comparison", "load_comparison"),
    "feddtl.comparison.grid": ("ComparisonObserver", "compare"),
    "feddtl.comparison.tuning": ("Tuning",),
    "feddtl.config": (
        "AttackConfig",
        "ComputeConfig",
        "DataConfig",
        "EvaluationConfig",
        "Experiment",
        "LocalConfig",
        "LoraConfig",
        "RlConfig",
        "ScheduleConfig",
        "ServerConfig",
        "SystemConfig",
        "UplinkConfig",
    ),
    "feddtl.data.federated": ("FederatedData", "load_federated_data"),
    "feddtl.data.listing": ("list_images",),
    "feddtl.errors": ("FeddtlError",),
    "feddtl.experiment": ("run_experiment",),
    "feddtl.experiment_file": ("load_experiment", "load_experiments"),
    "feddtl.export": ("export_class_embeddings", "export_merged", "export_onnx"),
    "feddtl.models.backbone": ("Backbone",),
    "feddtl.observers": ("Observers", "RunObserver"),
    "feddtl.records": ("RoundRecord", "Summary"),
    "feddtl.scoring": ("score_run",),
    "feddtl.trained_model": ("Prediction", "TrainedModel", "load_trained_model"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AttackConfig",
    "Backbone",
    "Clip",
    "Comparison",
    "ComparisonObserver",
    "ComputeConfig",
    "DataConfig",
    "EvaluationConfig",
    "Experiment",
    "FeddtlError",
    "FederatedData",
    "LocalConfig",
    "LoraConfig",
    "Observers",
    "Prediction",
    "RlConfig",
    "RoundRecord",
    "RunObserver",
    "ScheduleConfig",
    "ServerConfig",
    "Summary",
    "SystemConfig",
    "TrainedModel",
    "Tuning",
    "UplinkConfig",
    "__version__",
    "compare",
    "export_class_embeddings",
    "export_merged",
    "export_onnx",
    "list_images",
    "load_backbone",
    "load_clip",
    "load_comparison",
    "load_experiment",
    "load_experiments",
    "load_federated_data",
    "load_trained_model",
    "run_experiment",
    "score_run",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("feddtl")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'feddtl' has no attribute '{name}'")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
