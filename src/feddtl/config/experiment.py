"""One experiment."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from feddtl.aggregators.catalog import AGGREGATORS, ROBUST
from feddtl.checks import Above, AtLeast, Rule, Settings, require
from feddtl.config.attack import AttackConfig
from feddtl.config.data import DataConfig
from feddtl.config.deployment import DeploymentConfig
from feddtl.config.protocol import SHAPES
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
from feddtl.errors import ConfigError, shown
from feddtl.methods.catalog import LoraAggregation, Stages, method_entry, require_fitting_prompt
from feddtl.methods.tables import MethodTables

EMBEDDED_MODEL = "tiny-clip"
AUTO_MODEL = "auto"
# Aggregations of LoRA that are a weighted mean, in whose place no combination of coordinates can be put.
NEED_MEAN = ("product", "residual")
# Why an aggregation of LoRA cannot be used in asynchronous runs.
NOT_ASYNCHRONOUS = {
    "product": "factorises again in each aggregation, so the steps of system.mode = 'async' cannot be added.",
    "residual": "is how the clients of a round differ, and system.mode = 'async' aggregates one update at a time.",
    "alternate": "trains one factor while the other is still; late updates of system.mode = 'async' would change both.",
}


def method_title(method: str, stages: Stages, proximal_weight: float = 0.0) -> str:
    """Title of a method in tables, with what differs from what its bare title stands for."""
    entry = method_entry(method)
    title = entry.title
    if stages != entry.plain_stages:
        title += " (SFT only)" if stages == "sft" else " + two-stage"
    return f"{title} + FedProx" if proximal_weight else title


@dataclass(frozen=True)
class Experiment(Settings):
    """One experiment: everything that decides its result."""

    method: str = "feddtl"
    """Which method: feddtl, fedlora (both towers on the client), fedsa-lora, ffa-lora, rolora, fedex-lora, promptfl,
    fedmaple, fedpgp, fedmgp, pfedmma, fedclip, zero-shot, or one of your own as FILE.py:Class or module:Class."""
    model: Annotated[str, Rule(bool, "a Hub id, a folder, 'tiny-clip' or 'auto'")] = AUTO_MODEL
    """Hub id or local folder of a CLIP model, or 'tiny-clip', the embedded one, which knows coloured shapes alone;
    'auto': 'tiny-clip' for source 'shapes', while any other source needs a choice (paper: CLIP ViT-B/16)."""
    seed: Annotated[int, AtLeast(0, up_to=2**31 - 1)] = 0
    """Seed of everything random."""
    rounds: Annotated[int, AtLeast(1)] = 20
    """Communication rounds T (paper: 20)."""
    participation: Annotated[float, Above(0, up_to=1)] = 1.0
    """Fraction of the clients that participate in a round (paper: 1)."""
    init_from: str = ""
    """Run folder whose adapters, or other shared tensors, this run starts from, over Flower on the server's machine;
    empty: the method's own start."""
    data: DataConfig = field(default_factory=DataConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    local: LocalConfig = field(default_factory=LocalConfig)
    rl: RlConfig = field(default_factory=RlConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    uplink: UplinkConfig = field(default_factory=UplinkConfig)
    system: SystemConfig = field(default_factory=SystemConfig)
    fedppo: FedPPOConfig = field(default_factory=FedPPOConfig)
    afedpg: AFedPGConfig = field(default_factory=AFedPGConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
    deployment: DeploymentConfig = field(default_factory=DeploymentConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    methods: MethodTables = field(default_factory=MethodTables)
    """Settings of the methods' own, a table for each that has some: `[promptfl]`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stages == "sft-then-rl" and self.schedule.sft_rounds >= max(self.rounds, 2):
            raise ConfigError(
                f"schedule.sft_rounds = {self.schedule.sft_rounds} leaves no RL round in rounds = {self.rounds}.",
                "Lower it, raise rounds, or set schedule.stages = 'sft'.",
            )
        if self.stages == "sft-then-rl":
            self.local.require_epochs_after_warmup("rl.epochs", self.rl.epochs)
        if self.init_from and not self.trains:
            raise ConfigError(
                f"init_from = {shown(self.init_from)} has no place in method = '{self.method}', which trains nothing.",
                "Omit init_from, or choose a method that trains, as that of the run was.",
            )
        require_fitting_prompt(self.method, self.data.prompt)
        self._check_aggregator()
        self._check_lora_aggregation()
        self._check_system()
        self._check_attack()
        self._check_deployment()

    @property
    def title(self) -> str:
        """Title of the method, see `method_title`."""
        return method_title(self.method, self.stages, self.local.proximal_weight)

    @property
    def model_name(self) -> str:
        """The model, with what 'auto' stands for where it stands for one."""
        return EMBEDDED_MODEL if self.model == AUTO_MODEL else self.model

    def with_model(self) -> Experiment:
        """The same with the model that 'auto' stands for."""
        return replace(self, model=self.model_name)

    @property
    def model_note(self) -> str:
        """What to know if no model was chosen for images that the embedded one does not know; empty otherwise."""
        if self.model != AUTO_MODEL or self.data.source == SHAPES:
            return ""
        return (
            f"No model was chosen, and the embedded '{EMBEDDED_MODEL}' only knows coloured shapes: on other images, "
            "its accuracies mean little. Add --model with a Hub id such as openai/clip-vit-base-patch16, or the folder "
            f"of a CLIP (in a file: model = …). With --model {EMBEDDED_MODEL}, this note is left out."
        )

    @property
    def trains(self) -> bool:
        """Whether the method has rounds at all."""
        return method_entry(self.method).trains

    @property
    def stages(self) -> Stages:
        """The schedule: as set, or the method's own."""
        return method_entry(self.method).stages if self.schedule.stages == "auto" else self.schedule.stages

    @property
    def aggregation(self) -> LoraAggregation:
        """How LoRA is aggregated: as set, or the method's own."""
        own, chosen = method_entry(self.method).aggregation, self.lora.aggregation
        return (own or "factors") if chosen == "auto" else chosen

    @property
    def method_settings(self) -> Any:
        """The settings of the experiment's method."""
        return self.methods.of(self.method)

    @property
    def own_prompt(self) -> str:
        """The method's own prompt, such as `fedclip.prompt`; empty: it has that of the data."""
        return str(getattr(self.method_settings, "prompt", ""))

    @property
    def training(self) -> TrainingSettings:
        """What the experiment's method gets beside its own settings."""
        lora = replace(self.lora, aggregation=self.aggregation)
        return TrainingSettings(
            self.rounds, self.stages, self.schedule, self.local, self.rl, lora, self.server, self.uplink
        )

    @property
    def in_round(self) -> int:
        """Number of clients in a round; 0 where the number of clients is not known, see `DataConfig.client_count`."""
        clients = self.data.client_count
        return clients_at_a_time(clients, self.participation) if clients else 0

    @property
    def hostile_count(self) -> int:
        """Number of hostile clients; 0 without an attack, and where the number of clients is not known."""
        return round(self.attack.share * self.data.client_count) if self.attack.is_on else 0

    def is_scored(self, round_number: int) -> bool:
        """Whether the model is scored after a round; the last one always is."""
        return round_number % self.evaluation.every == 0 or round_number == self.rounds

    def scores_client_models(self, round_number: int) -> bool:
        """Whether each client's own model is scored on all test images after a round."""
        when = self.evaluation.client_models
        return self.is_scored(round_number) and (when == "every" or (when == "last" and round_number == self.rounds))

    def _check_deployment(self) -> None:
        """Raise ConfigError for a quorum that no round can reach."""
        if not (in_round := self.in_round):
            return
        require(
            self.deployment.min_clients <= in_round,
            "deployment.min_clients",
            self.deployment.min_clients,
            f"1 to {in_round}, the clients of a round",
        )

    def _check_attack(self) -> None:
        """Raise ConfigError for an attack without hostile clients, or without rounds that they could spoil."""
        attack, clients = self.attack, self.data.client_count
        if attack.is_on and self.system.mode == "async":
            raise ConfigError(
                f"attack.name = '{attack.name}' is carried out in rounds, which system.mode = 'async' does not have.",
                "Set system.mode = 'sync', or remove attack.name.",
            )
        if attack.is_on and clients and not 0 < self.hostile_count < clients:
            raise ConfigError(
                f"attack.share = {attack.share} of {clients} clients is {self.hostile_count} hostile ones.",
                f"Allowed: a share that is 1 to {clients - 1} of them, such as {math.ceil(100 / clients) / 100}."
                if clients > 1
                else "Use 2 clients or more.",
            )

    def _check_aggregator(self) -> None:
        """Raise ConfigError for an aggregator that cannot do its work in this experiment."""
        aggregator = self.server.aggregator
        if self.system.mode == "async" and aggregator in ROBUST:
            raise ConfigError(
                f"server.aggregator = '{aggregator}' compares the clients of a round, and system.mode = 'async' "
                "aggregates one update at a time.",
                "Set server.aggregator = 'mean', or system.mode = 'sync'.",
            )
        if self.server.trims and (in_round := self.in_round):
            self._check_trim_share(in_round)

    def _check_trim_share(self, in_round: int) -> None:
        """Raise ConfigError for a share of the clients of a round that is no client, or too many."""
        server, entry = self.server, AGGREGATORS[self.server.aggregator]
        dropped = server.trimmed(in_round)
        who = f"server.aggregator = '{server.aggregator}'" if entry.trims else "server.nearest_neighbour_mixing = true"
        most = (in_round - entry.spare) // 2
        if not dropped:
            raise ConfigError(
                f"{who} drops nobody: server.trim_share = {server.trim_share} of {in_round} clients in a round is less "
                "than one client.",
                f"Set server.trim_share to {math.ceil(100 / in_round) / 100} or more."
                if most > 0
                else f"Use {2 + entry.spare} clients or more in a round, or another aggregator.",
            )
        if dropped > most:
            raise ConfigError(
                f"{who} cannot drop {dropped} of {in_round} clients in a round, which is server.trim_share = "
                f"{server.trim_share}: of K clients it drops f where K is 2f + {entry.spare} or more.",
                f"Set server.trim_share below {math.floor(100 * (most + 1) / in_round) / 100}, or use "
                f"{2 * dropped + entry.spare} clients or more in a round."
                if most > 0
                else f"Use {2 + entry.spare} clients or more in a round, or another aggregator.",
            )

    def _check_lora_aggregation(self) -> None:
        """Raise ConfigError for an aggregation of LoRA that contradicts the method or another setting."""
        entry, chosen, aggregation = method_entry(self.method), self.lora.aggregation, self.aggregation
        setting = f"lora.aggregation = '{aggregation}'"
        # A method with an aggregation of its own takes no other one.
        instead = "method = 'fedlora' and lora.aggregation" if entry.aggregation else "lora.aggregation"
        if entry.trains and not entry.has_lora and aggregation != "factors":
            raise ConfigError(
                f"{setting} combines LoRA factors, and method = '{self.method}' sends none.",
                "Remove lora.aggregation, or choose a method with LoRA, such as 'fedlora'.",
            )
        if entry.aggregation and chosen not in ("auto", entry.aggregation):
            raise ConfigError(
                f"{setting} contradicts method = '{self.method}', which is '{entry.aggregation}'.",
                "Remove lora.aggregation, or set method = 'fedlora'.",
            )
        if aggregation in NEED_MEAN and self.server.aggregator != "mean":
            raise ConfigError(
                f"{setting} is a weighted mean of products, and server.aggregator = '{self.server.aggregator}' "
                "is another combination.",
                f"Set server.aggregator = 'mean', or {instead} = 'factors', 'frozen-a' or 'alternate'.",
            )
        if self.system.mode == "async" and aggregation in NOT_ASYNCHRONOUS:
            raise ConfigError(
                f"{setting} {NOT_ASYNCHRONOUS[aggregation]}",
                f"Set {instead} = 'factors' or 'frozen-a', or system.mode = 'sync'.",
            )

    def _check_system(self) -> None:
        """Raise ConfigError for incompatible policies."""
        selection, asynchronous = self.system.selection, self.system.mode == "async"
        if selection == "all" and self.participation < 1:
            raise ConfigError(
                f"system.selection = 'all' contradicts participation = {self.participation}.",
                "Set participation = 1, or system.selection = 'uniform' for a random sample.",
            )
        if selection == "fedppo" and self.in_round == self.data.client_count > 0:
            raise ConfigError(
                f"system.selection = 'fedppo' has nothing to select: with participation = {self.participation}, all "
                f"{self.data.client_count} clients participate.",
                "Lower participation, or set system.selection = 'all'.",
            )
        if selection == "fedppo" and asynchronous:
            raise ConfigError(
                "system.selection = 'fedppo' chooses the clients of a whole round, which "
                "system.mode = 'async' does not have.",
                "Set system.selection = 'uniform', or system.mode = 'sync'.",
            )
