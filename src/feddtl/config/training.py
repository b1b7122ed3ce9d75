"""Local training, and settings of FedDTL and FedLoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from feddtl.aggregators.catalog import AGGREGATORS, ROBUST
from feddtl.checks import Above, AtLeast, Settings, SomeOf, require, require_known, split_names
from feddtl.errors import ConfigError
from feddtl.transforms.catalog import TRANSFORMS

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@dataclass(frozen=True)
class LoraConfig(Settings, table="lora"):
    """Low-rank adapters W = W_0 + (alpha/rank)·B·A in the last blocks of a tower."""

    rank: Annotated[int, AtLeast(1)] = 4
    """Rank r (paper: 4)."""
    alpha: Annotated[float, AtLeast(0, meaning="equal to the rank")] = 0.0
    """LoRA alpha; 0: equal to the rank, so that alpha/rank = 1 (ours)."""
    targets: Annotated[str, SomeOf(LORA_TARGETS)] = "q_proj,k_proj,v_proj"
    """Comma-separated linear layers: q_proj, k_proj, v_proj, out_proj, fc1, fc2 (ours: q, k, v)."""
    first_image_block: int = -2
    """First adapted block of the image tower, from 0; negative counts from the end (paper: 10 of 12)."""
    first_text_block: int = -2
    """First adapted block of the text tower (ours: as the image tower)."""
    aggregation: Literal["auto", "factors", "product", "residual", "frozen-a", "alternate"] = "auto"
    """How the clients' adapters become one: 'factors', A and B each (ours); 'product', the mean of B·A truncated to the
    rank by SVD; 'residual', A and B each, and what the product of their means lacks is added to the frozen weight;
    'frozen-a', A stays as it was drawn and only B is trained; 'alternate', B in odd rounds and A in even
    ones. 'auto': the method's own, 'factors' for feddtl and fedlora. FedDTL's text tower, trained on the server, is not
    aggregated."""

    @property
    def target_names(self) -> tuple[str, ...]:
        """The adapted layers, without blanks."""
        return split_names(self.targets)

    @property
    def scaling(self) -> float:
        """alpha / rank."""
        return (self.alpha or self.rank) / self.rank


@dataclass(frozen=True)
class ScheduleConfig(Settings, table="schedule"):
    """When supervised fine-tuning (SFT) ends and reinforcement learning (RL) begins."""

    stages: Literal["auto", "sft-then-rl", "sft"] = "auto"
    """'sft-then-rl' is the paper's two-stage schedule, 'sft' is its ablation; 'auto': the method's own, two stages for
    feddtl and fedlora and SFT for the others."""
    sft_rounds: Annotated[int, AtLeast(0, meaning="half")] = 0
    """Rounds M of SFT before RL; 0: half of all rounds, rounded up (ours: M = 10 of T = 20)."""


@dataclass(frozen=True)
class LocalConfig(Settings, table="local"):
    """Supervised training on a client."""

    epochs: Annotated[int, AtLeast(1)] = 2
    """Local epochs T_e of an SFT round (paper: 2)."""
    optimizer: Literal["auto", "adam", "sgd"] = "auto"
    """'auto': the method's own, Adam for feddtl, fedlora and fedclip (their papers: Adam), SGD with momentum for the
    others (their papers: SGD). Its state is reset for every client and round."""
    learning_rate: Annotated[float, Above(0, up_to=1)] = 1e-3
    """Learning rate on the clients, in both stages (paper: 1e-3)."""
    rate_schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate over the local epochs of a round: 'constant', or 'cosine' from `learning_rate` towards 0, anew in
    each round (paper: not stated, ours: constant; PromptFL: cosine)."""
    warmup_epochs: Annotated[int, AtLeast(0, meaning="none")] = 0
    """First local epochs of each round, trained at `warmup_rate`; 0: none (PromptFL: 1)."""
    warmup_rate: Annotated[float, Above(0, up_to=1)] = 1e-5
    """Learning rate of the warm-up epochs (PromptFL: 1e-5)."""
    momentum: Annotated[float, AtLeast(0, below=1)] = 0.9
    """Momentum of SGD (papers of the compared methods: 0.9)."""
    weight_decay: Annotated[float, AtLeast(0)] = 5e-4
    """Weight decay of SGD (papers of the compared methods: 5e-4)."""
    adam_beta1: Annotated[float, AtLeast(0, below=1)] = 0.9
    """Adam's decay beta_1 of the mean gradient (paper: not stated, ours: PyTorch's 0.9; FedCLIP: 0.9)."""
    adam_beta2: Annotated[float, AtLeast(0, below=1)] = 0.999
    """Adam's decay beta_2 of the mean squared gradient (paper: not stated, ours: PyTorch's 0.999; FedCLIP: 0.98)."""
    adam_epsilon: Annotated[float, Above(0)] = 1e-8
    """Adam's epsilon in the denominator (paper: not stated, ours: PyTorch's 1e-8; FedCLIP: 1e-6)."""
    adam_weight_decay: Annotated[float, AtLeast(0)] = 0.0
    """Weight decay of Adam, added to the gradient (paper: not stated, ours: none; FedCLIP: 0.2)."""
    batch_size: Annotated[int, AtLeast(1)] = 64
    """Images per step, in both stages (paper: 64)."""
    proximal_weight: Annotated[float, AtLeast(0, meaning="none")] = 0.0
    """Weight mu of FedProx's penalty mu/2 · ||w - w_global||² on the shared tensors, for any method; 0: none (ours)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_epochs_after_warmup("local.epochs", self.epochs)

    def require_epochs_after_warmup(self, key: str, epochs: int) -> None:
        """Raise ConfigError if a round of so many local epochs is all warm-up."""
        if self.warmup_epochs >= epochs:
            raise ConfigError(
                f"local.warmup_epochs = {self.warmup_epochs} leaves no epoch at local.learning_rate in "
                f"{key} = {epochs}.",
                f"Set local.warmup_epochs to {epochs - 1} or less, or raise {key}.",
            )


@dataclass(frozen=True)
class RlConfig(Settings, table="rl"):
    """Group-relative policy optimisation on a client, with noise in the latent space."""

    epochs: Annotated[int, AtLeast(1)] = 3
    """Local epochs T_e of an RL round (paper: 3)."""
    group_size: Annotated[int, AtLeast(2, note=": advantages compare a group")] = 3
    """Noisy samples G per image (paper: 3)."""
    noise_std: Annotated[float | Literal["auto"], AtLeast(0)] = 0.1
    """Standard deviation sigma of the latent noise (paper: 0.1, for ViT-B/16); 'auto': the one that moves a logit as
    far for any CLIP, the norm of the image's feature divided by the logit scale."""
    noise_on: Literal["projected", "normalized"] = "projected"
    """Where the noise enters: the projected feature before, or after, its L2 normalisation (ours: before)."""
    action: Literal["argmax", "sample"] = "argmax"
    """The class a noisy sample chooses: the most likely one (paper), or a draw from the softmax."""
    rollout: Literal["round", "epoch", "batch"] = "round"
    """How often actions and the old policy are redrawn (ours: once per round, at the received model)."""
    clip: Annotated[float, Above(0, below=1)] = 0.2
    """Clip range epsilon of the probability ratio (paper: 0.2)."""
    kl_weight: Annotated[float, AtLeast(0)] = 0.5
    """Weight beta of the KL to the hybrid reference (paper: 0.5)."""
    kl: Literal["sampled", "exact"] = "sampled"
    """exp(q) - q - 1 on the sampled action (paper), or the exact KL over all classes."""
    anchor_weight: Annotated[float, AtLeast(0, up_to=1)] = 0.5
    """Weight of the frozen SFT anchor in the hybrid reference; the rest is the received model (paper: 0.5)."""
    reference: Literal["weights", "probabilities"] = "weights"
    """What the hybrid reference mixes: the low-rank weights, or the two probability vectors (ours: weights)."""
    max_log_ratio: Annotated[float, AtLeast(1, up_to=80, note=" (exp fits float32)")] = 10.0
    """Log-ratio beyond which exp continues as its tangent, against overflow at logit scale 100 (ours)."""


@dataclass(frozen=True)
class ServerConfig(Settings, table="server"):
    """What the server does with the clients' updates."""

    epochs: Annotated[int, AtLeast(0)] = 2
    """Epochs of text training on the uploaded embeddings, each round (ours)."""
    learning_rate: Annotated[float, Above(0, up_to=1)] = 1e-3
    """Adam's learning rate on the server (paper: 1e-3)."""
    batch_size: Annotated[int, AtLeast(1)] = 64
    """Embeddings per step on the server (paper: 64)."""
    aggregator: str = "mean"
    """How the clients' updates become one: 'mean' weighted by images (ours), 'unweighted-mean' (FedCLIP), or one that
    bounds hostile clients: 'median', 'trimmed-mean', 'geometric-median', 'multi-krum' or 'centred-clipping'."""
    trim_share: Annotated[float, AtLeast(0, below=0.5)] = 0.2
    """Share of the clients of a round that may be hostile: 'trimmed-mean' drops as many at each end of a coordinate,
    'multi-krum' as many clients, and nearest-neighbour mixing leaves out as many of a client's neighbours (ours)."""
    nearest_neighbour_mixing: bool = False
    """Before the aggregator, replace each update by the mean of its nearest ones (NNM), which helps where honest
    clients differ; needs an aggregator that bounds hostile clients (ours: off)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aggregator == "product":
            raise ConfigError(
                "server.aggregator = 'product' combines LoRA factors, and an aggregator combines any tensors.",
                "Set lora.aggregation = 'product'.",
            )
        require_known("server.aggregator", self.aggregator, AGGREGATORS)
        if self.nearest_neighbour_mixing and self.aggregator not in ROBUST:
            raise ConfigError(
                f"server.nearest_neighbour_mixing = true bounds no hostile client with server.aggregator = "
                f"'{self.aggregator}'.",
                f"Set server.aggregator to one of {', '.join(ROBUST)}.",
            )

    @property
    def trims(self) -> bool:
        """Whether `trim_share` is used."""
        return AGGREGATORS[self.aggregator].trims or self.nearest_neighbour_mixing

    def trimmed(self, clients: int) -> int:
        """f = ⌊β·K⌋, how many of the K clients of a round are dropped; β is `trim_share`."""
        # Rounded first: 0.29 · 100 is 28.999999999999996 in binary floating point.
        return int(round(self.trim_share * clients, 9))


@dataclass(frozen=True)
class UplinkConfig(Settings, table="uplink"):
    """What leaves a client."""

    transforms: str = "norm-bound"
    """What an update passes on its way to the server, in order and separated by commas: 'norm-bound', 'float16'; empty:
    nothing (ours)."""
    max_update_norm: Annotated[float, Above(0)] = 1000.0
    """Bound of 'norm-bound': the largest L2 distance between what a client received and what it sends; a client scales
    a larger one down, and the server rejects it (ours)."""

    max_embeddings_per_class: Annotated[int, AtLeast(0, meaning="all")] = 0
    """Maximum embeddings that a client uploads per class, redrawn each round; 0: all (paper: all)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.transform_names:
            require_known("uplink.transforms", name, TRANSFORMS)
        require(
            len(set(self.transform_names)) == len(self.transform_names),
            "uplink.transforms",
            self.transforms,
            "each transform once",
        )

    @property
    def transform_names(self) -> tuple[str, ...]:
        """The transforms in order, without blanks."""
        return split_names(self.transforms)


@dataclass(frozen=True)
class TrainingSettings:
    """What every method gets beside its own settings.

    Attributes:
        rounds: Communication rounds T.
        stages: The resolved schedule: never 'auto'.
        schedule: When SFT ends.
        local: Supervised training on a client.
        rl: Reinforcement learning on a client.
        lora: Low-rank adapters, for methods that have some.
        server: Training on the server, for methods that have it, and aggregation.
        uplink: What leaves a client.
    """

    rounds: int
    stages: Literal["sft-then-rl", "sft"]
    schedule: ScheduleConfig
    local: LocalConfig
    rl: RlConfig
    lora: LoraConfig
    server: ServerConfig
    uplink: UplinkConfig

    @property
    def last_sft_round(self) -> int:
        """M: rounds 1…M are SFT, the later ones RL."""
        if self.stages == "sft":
            return self.rounds
        return self.schedule.sft_rounds or (self.rounds + 1) // 2

    def stage(self, round_number: int) -> Literal["sft", "rl"]:
        """The stage of a round, from 1."""
        return "sft" if self.stages == "sft" or round_number <= self.last_sft_round else "rl"

    def local_epochs(self, stage: str) -> int:
        """Epochs that a client trains in a round of this stage."""
        return self.rl.epochs if stage == "rl" else self.local.epochs
