"""One experiment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from feddtl.checks import check_fields, require
from feddtl.config.data import DataConfig
from feddtl.config.methods import FedCLIPConfig, FedMaPLeConfig, FedPGPConfig, PFedMMAConfig, PromptFLConfig
from feddtl.config.running import ComputeConfig, EvaluationConfig
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
# Those that have both stages; their titles say when there is only one.
TWO_STAGE_METHODS: tuple[Method, ...] = ("feddtl", "fedlora")


def method_title(method: Method, stages: str) -> str:
    """Title of a method in tables, 'FedDTL (SFT only)' where its RL stage was left out."""
    only = " (SFT only)" if method in TWO_STAGE_METHODS and stages == "sft" else ""
    return METHOD_TITLES[method] + only


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

    @property
    def last_sft_round(self) -> int:
        """M: rounds 1…M are SFT, the later ones RL."""
        if self.schedule.stages == "sft":
            return self.rounds
        return self.schedule.sft_rounds or (self.rounds + 1) // 2

    def stage(self, round_number: int) -> Literal["sft", "rl"]:
        """The stage of a round, from 1."""
        return "sft" if round_number <= self.last_sft_round else "rl"
