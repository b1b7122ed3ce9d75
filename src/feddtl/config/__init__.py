"""The experiment as frozen dataclasses: one field, one TOML key, one flag.

Field docstrings say what the FedDTL paper (arXiv 2605.27900) states, or the paper of the method whose table it is;
"ours" marks what they leave open. Only scalars and nested tables, so that the same keys can travel as a run
configuration.
"""

from __future__ import annotations

from feddtl.config.attack import AttackConfig
from feddtl.config.data import DataConfig, PartitionKind, Regime
from feddtl.config.deployment import DeploymentConfig
from feddtl.config.experiment import Experiment, method_title
from feddtl.config.running import ComputeConfig, EvaluationConfig
from feddtl.config.system import AFedPGConfig, FedPPOConfig, SystemConfig, clients_at_a_time
from feddtl.config.training import (
    LocalConfig,
    LoraConfig,
    RlConfig,
    ScheduleConfig,
    ServerConfig,
    TrainingSettings,
    UplinkConfig,
)

__all__ = [
    "AFedPGConfig",
    "AttackConfig",
    "ComputeConfig",
    "DataConfig",
    "DeploymentConfig",
    "EvaluationConfig",
    "Experiment",
    "FedPPOConfig",
    "LocalConfig",
    "LoraConfig",
    "PartitionKind",
    "Regime",
    "RlConfig",
    "ScheduleConfig",
    "ServerConfig",
    "SystemConfig",
    "TrainingSettings",
    "UplinkConfig",
    "clients_at_a_time",
    "method_title",
]
