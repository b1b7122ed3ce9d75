"""One experiment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from feddtl.checks import check_fields, require
from feddtl.config.data import DataConfig
from feddtl.config.deployment import DeploymentConfig
from feddtl.config.methods import FedCLIPConfig, FedMaPLeConfig, FedPGPConfig, PFedMMAConfig, PromptFLConfig
from feddtl.config.running import ComputeConfig, EvaluationConfig
from feddtl.config.system import AFedPGConfig, FedPPOConfig, SystemConfig, clients_at_a_time
from feddtl.config.training import LocalConfig, LoraConfig, RlConfig, ScheduleConfig, ServerConfig, UplinkConfig
from feddtl.errors import ConfigError

Method = Literal["feddtl", "fedlora", "promptfl", "fedmaple", "fedpgp", "pfedmma", "fedclip", "zero-shot"]
METHOD_TITLES: dict[Method, str] = {
    "feddtl": "FedDTL",
    "fedlora": "FedLoRA",
    "promptfl": "PromptFL",
    "fedmaple": "FedMaPLe",
    "fedpgp": "FedPGP",
    "pfedmma": "pFedMMA",
    "fedclip": "FedCLIP",
    "zero-shot": "Zero-shot",
}


def method_title(method: Method, stages: str) -> str:
    """Title of a method in tables; says so where FedDTL has no RL stage, or FedLoRA has one."""
    if method == "feddtl" and stages == "sft":
        return f"{METHOD_TITLES[method]} (SFT only)"
    if method == "fedlora" and stages == "sft-then-rl":
        return f"{METHOD_TITLES[method]} + two-stage"
    return METHOD_TITLES[method]


@dataclass(frozen=True)
class Experiment:
    """One experiment: everything that decides its result."""

    method: Method = "feddtl"
    """Which method: feddtl, fedlora (both towers on the client), one of those it is compared with, zero-shot."""
    model: str = "tiny-clip"
    """Hub id or local folder of a CLIP model, or 'tiny-clip', the embedded one (paper: CLIP ViT-B/16)."""
    seed: int = 0
    """Seed of everything random."""
    rounds: int = 20
    """Communication rounds T (paper: 20)."""
    participation: float = 1.0
    """Share of the clients that take part in a round (paper: 1)."""
    data: DataConfig = field(default_factory=DataConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    local: LocalConfig = field(default_factory=LocalConfig)
    rl: RlConfig = field(default_factory=RlConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    uplink: UplinkConfig = field(default_factory=UplinkConfig)
    promptfl: PromptFLConfig = field(default_factory=PromptFLConfig)
    fedmaple: FedMaPLeConfig = field(default_factory=FedMaPLeConfig)
    fedpgp: FedPGPConfig = field(default_factory=FedPGPConfig)
    pfedmma: PFedMMAConfig = field(default_factory=PFedMMAConfig)
    fedclip: FedCLIPConfig = field(default_factory=FedCLIPConfig)
    system: SystemConfig = field(default_factory=SystemConfig)
    fedppo: FedPPOConfig = field(default_factory=FedPPOConfig)
    afedpg: AFedPGConfig = field(default_factory=AFedPGConfig)
    deployment: DeploymentConfig = field(default_factory=DeploymentConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        check_fields("", self)
        require(bool(self.model), "model", self.model, "a Hub id, a folder or 'tiny-clip'")
        require(0 <= self.seed < 2**31, "seed", self.seed, "0 to 2147483647")
        require(self.rounds >= 1, "rounds", self.rounds, "1 or more")
        require(0 < self.participation <= 1, "participation", self.participation, "above 0, up to 1")
        if self.schedule.stages == "sft-then-rl" and self.schedule.sft_rounds >= max(self.rounds, 2):
            raise ConfigError(
                f"schedule.sft_rounds = {self.schedule.sft_rounds} leaves no RL round in rounds = {self.rounds}.",
                "Lower it, raise rounds, or set schedule.stages = 'sft'.",
            )
        self._check_system()
        self._check_deployment()

    @property
    def title(self) -> str:
        """Title of the method, see `method_title`."""
        return method_title(self.method, self.schedule.stages)

    @property
    def trains(self) -> bool:
        """Whether the method has rounds at all."""
        return self.method != "zero-shot"

    @property
    def last_sft_round(self) -> int:
        """M: rounds 1…M are SFT, the later ones RL."""
        if self.schedule.stages == "sft":
            return self.rounds
        return self.schedule.sft_rounds or (self.rounds + 1) // 2

    def stage(self, round_number: int) -> Literal["sft", "rl"]:
        """The stage of a round, from 1."""
        return "sft" if round_number <= self.last_sft_round else "rl"

    def is_scored(self, round_number: int) -> bool:
        """Whether the model is scored after a round; the last one always is."""
        return round_number % self.evaluation.every == 0 or round_number == self.rounds

    def scores_client_models(self, round_number: int) -> bool:
        """Whether each client's own model is scored on all test images after a round."""
        when = self.evaluation.client_models
        return self.is_scored(round_number) and (when == "every" or (when == "last" and round_number == self.rounds))

    def local_epochs(self, stage: str) -> int:
        """Epochs that a client trains in a round of this stage."""
        return self.rl.epochs if stage == "rl" else self.local.epochs

    def _check_deployment(self) -> None:
        """Raise ConfigError for a quorum that no round can reach."""
        in_round = clients_at_a_time(self.data.clients, self.participation)
        require(
            self.deployment.min_clients <= in_round,
            "deployment.min_clients",
            self.deployment.min_clients,
            f"1 to {in_round}, the clients of a round",
        )

    def _check_system(self) -> None:
        """Raise ConfigError for policies that do not go together."""
        selection, asynchronous = self.system.selection, self.system.aggregation == "async"
        if selection == "all" and self.participation < 1:
            raise ConfigError(
                f"system.selection = 'all' contradicts participation = {self.participation}.",
                "Set participation = 1, or system.selection = 'uniform' for a random sample.",
            )
        if selection == "fedppo" and clients_at_a_time(self.data.clients, self.participation) == self.data.clients:
            raise ConfigError(
                f"system.selection = 'fedppo' has no choice: participation = {self.participation} is all "
                f"{self.data.clients} clients.",
                "Lower participation, or set system.selection = 'all'.",
            )
        if selection == "fedppo" and asynchronous:
            raise ConfigError(
                "system.selection = 'fedppo' chooses the clients of a whole round, which "
                "system.aggregation = 'async' does not have.",
                "Set system.selection = 'uniform', or system.aggregation = 'sync'.",
            )
        if asynchronous and self.server.aggregation == "product":
            raise ConfigError(
                "server.aggregation = 'product' factorises anew at each aggregation, so that the steps of "
                "system.aggregation = 'async' cannot be added.",
                "Set server.aggregation = 'factors', or system.aggregation = 'sync'.",
            )
