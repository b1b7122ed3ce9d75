"""The experiment as frozen dataclasses: one field, one TOML key, one flag.

Field docstrings say what the FedDTL paper (arXiv 2605.27900) states; "ours" marks what it leaves open.
Only scalars and nested tables, so that the same keys can travel as a run configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from feddtl.checks import check_fields, require
from feddtl.errors import ConfigError

Method = Literal["feddtl", "fedlora", "zero-shot"]
Regime = Literal["few-shot", "full"]
PartitionKind = Literal["non-iid", "dirichlet", "iid", "domain", "domain-dirichlet"]


@dataclass(frozen=True)
class DataConfig:
    """Which images, and who holds them."""

    source: str = "shapes"
    """Catalogue name, Hub id (owner/name), local folder of images or parquet files, or 'shapes'."""
    domains: str = ""
    """Comma-separated domain names to use; empty: all domains of the source."""
    prompt: str = ""
    """Prompt with {class} in place of the class name; empty: the source's own ('a photo of a {class}.')."""
    image_column: str = ""
    """Image column of a Hub or parquet source; empty: found by its type."""
    label_column: str = ""
    """Label column; empty: found by its type and name."""
    domain_column: str = ""
    """Domain column; empty: 'domain' where there is one."""
    regime: Regime = "few-shot"
    """'few-shot': `shots` training images per base class; 'full': all of them (both in the paper)."""
    shots: int = 16
    """Training images per base class in the few-shot regime (paper: 16)."""
    partition: PartitionKind = "non-iid"
    """Who gets which base training images (paper: non-iid and dirichlet; domain for feature shift)."""
    alpha: float = 0.1
    """Concentration of the Dirichlet partitions (paper: 0.1)."""
    clients: int = 5
    """Number of clients K (paper: 5)."""
    views: int = 1
    """Frozen views of each training image, used in turn round by round: the test transform, then random crops
    with flips (ours: 1, no augmentation)."""
    min_images: int = 0
    """Fewest training images of a client under the Dirichlet partitions; 0: 8, or a quarter of the mean
    where that is less (ours)."""

    def __post_init__(self) -> None:
        check_fields("data", self)
        require(bool(self.source), "data.source", self.source, "a name, a Hub id or a folder")
        require(
            not self.prompt or "{class}" in self.prompt,
            "data.prompt",
            self.prompt,
            "a text with {class} in it",
        )
        require(self.shots >= 1, "data.shots", self.shots, "1 or more")
        require(self.alpha > 0, "data.alpha", self.alpha, "a number above 0")
        require(self.clients >= 1, "data.clients", self.clients, "1 or more")
        require(self.views >= 1, "data.views", self.views, "1 or more")
        require(self.min_images >= 0, "data.min_images", self.min_images, "0 (automatic) or more")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters W = W_0 + (alpha/rank)·B·A in the last blocks of a tower."""

    rank: int = 4
    """Rank r (paper: 4)."""
    alpha: float = 0.0
    """LoRA alpha; 0: equal to the rank, so that alpha/rank = 1 (ours)."""
    targets: str = "q_proj,k_proj,v_proj"
    """Comma-separated linear layers: q_proj, k_proj, v_proj, out_proj, fc1, fc2 (ours: q, k, v)."""
    first_image_block: int = -2
    """First adapted block of the image tower, from 0; negative counts from the end (paper: 10 of 12)."""
    first_text_block: int = -2
    """First adapted block of the text tower (ours: as the image tower)."""

    def __post_init__(self) -> None:
        check_fields("lora", self)
        require(self.rank >= 1, "lora.rank", self.rank, "1 or more")
        require(self.alpha >= 0, "lora.alpha", self.alpha, "0 (equal to the rank) or a positive number")
        known = {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}
        require(
            bool(self.target_names) and set(self.target_names) <= known,
            "lora.targets",
            self.targets,
            ", ".join(sorted(known)),
        )

    @property
    def target_names(self) -> tuple[str, ...]:
        """The adapted layers, without blanks."""
        return tuple(name.strip() for name in self.targets.split(",") if name.strip())

    @property
    def scaling(self) -> float:
        """alpha / rank."""
        return (self.alpha or self.rank) / self.rank


@dataclass(frozen=True)
class ScheduleConfig:
    """When supervised fine-tuning (SFT) ends and reinforcement learning (RL) begins."""

    stages: Literal["sft-then-rl", "sft"] = "sft-then-rl"
    """'sft-then-rl' is the paper's two-stage schedule; 'sft' is its ablation."""
    sft_rounds: int = 0
    """Rounds M of SFT before RL; 0: half of all rounds, rounded up (ours: M = 10 of T = 20)."""

    def __post_init__(self) -> None:
        check_fields("schedule", self)
        require(self.sft_rounds >= 0, "schedule.sft_rounds", self.sft_rounds, "0 (half) or more")


@dataclass(frozen=True)
class LocalConfig:
    """Supervised training on a client."""

    epochs: int = 2
    """Local epochs T_e of an SFT round (paper: 2)."""
    learning_rate: float = 1e-3
    """Adam's learning rate on the clients, in both stages (paper: 1e-3)."""
    batch_size: int = 64
    """Images per step, in both stages (paper: 64)."""

    def __post_init__(self) -> None:
        check_fields("local", self)
        require(self.epochs >= 1, "local.epochs", self.epochs, "1 or more")
        require(0 < self.learning_rate <= 1, "local.learning_rate", self.learning_rate, "above 0, up to 1")
        require(self.batch_size >= 1, "local.batch_size", self.batch_size, "1 or more")


@dataclass(frozen=True)
class RlConfig:
    """Group-relative policy optimisation on a client, with noise in the latent space."""

    epochs: int = 3
    """Local epochs T_e of an RL round (paper: 3)."""
    group_size: int = 3
    """Noisy samples G per image (paper: 3)."""
    noise_std: float = 0.1
    """Standard deviation sigma of the latent noise (paper: 0.1)."""
    noise_on: Literal["projected", "normalized"] = "projected"
    """Where the noise enters: the projected feature before, or after, its L2 normalisation (ours: before)."""
    action: Literal["argmax", "sample"] = "argmax"
    """The class a noisy sample chooses: the most likely one (paper), or a draw from the softmax."""
    rollout: Literal["round", "epoch", "batch"] = "round"
    """How often actions and the old policy are drawn anew (ours: once a round, at the received model)."""
    clip: float = 0.2
    """Clip range epsilon of the probability ratio (paper: 0.2)."""
    kl_weight: float = 0.5
    """Weight beta of the KL to the hybrid reference (paper: 0.5)."""
    kl: Literal["sampled", "exact"] = "sampled"
    """exp(q) - q - 1 on the sampled action (paper), or the exact KL over all classes."""
    anchor_weight: float = 0.5
    """Share of the frozen SFT anchor in the hybrid reference; the rest is the received model (paper: 0.5)."""
    reference: Literal["weights", "probabilities"] = "weights"
    """What the hybrid reference mixes: the low-rank weights, or the two probability vectors (ours: weights)."""
    max_log_ratio: float = 10.0
    """Log-ratio beyond which exp continues as its tangent, against overflow at logit scale 100 (ours)."""

    def __post_init__(self) -> None:
        check_fields("rl", self)
        require(self.epochs >= 1, "rl.epochs", self.epochs, "1 or more")
        require(self.group_size >= 2, "rl.group_size", self.group_size, "2 or more: advantages compare a group")
        require(self.noise_std >= 0, "rl.noise_std", self.noise_std, "0 or more")
        require(0 < self.clip < 1, "rl.clip", self.clip, "between 0 and 1")
        require(self.kl_weight >= 0, "rl.kl_weight", self.kl_weight, "0 or more")
        require(0 <= self.anchor_weight <= 1, "rl.anchor_weight", self.anchor_weight, "0 to 1")
        require(
            1 <= self.max_log_ratio <= 80,
            "rl.max_log_ratio",
            self.max_log_ratio,
            "1 to 80 (exp fits float32)",
        )


@dataclass(frozen=True)
class ServerConfig:
    """What the server does with the clients' updates."""

    epochs: int = 2
    """Epochs of text training on the uploaded embeddings, each round (ours)."""
    learning_rate: float = 1e-3
    """Adam's learning rate on the server (paper: 1e-3)."""
    batch_size: int = 64
    """Embeddings per step on the server (paper: 64)."""
    aggregation: Literal["factors", "product"] = "factors"
    """Average the LoRA factors A and B, or average B·A and truncate to the rank by SVD (ours: factors)."""

    def __post_init__(self) -> None:
        check_fields("server", self)
        require(self.epochs >= 0, "server.epochs", self.epochs, "0 or more")
        require(0 < self.learning_rate <= 1, "server.learning_rate", self.learning_rate, "above 0, up to 1")
        require(self.batch_size >= 1, "server.batch_size", self.batch_size, "1 or more")


@dataclass(frozen=True)
class UplinkConfig:
    """What a client uploads beside its adapter."""

    max_embeddings_per_class: int = 0
    """Embeddings a client uploads per class, drawn anew each round; 0: all (paper: all)."""

    def __post_init__(self) -> None:
        check_fields("uplink", self)
        require(
            self.max_embeddings_per_class >= 0,
            "uplink.max_embeddings_per_class",
            self.max_embeddings_per_class,
            "0 (all) or more",
        )


@dataclass(frozen=True)
class EvaluationConfig:
    """How often and how much is scored; scoring never changes the training."""

    every: int = 1
    """Evaluate after every n-th round; the last round is always evaluated."""
    client_models: Literal["last", "every", "never"] = "last"
    """When each client's own model is scored on all base and novel test images as well."""

    def __post_init__(self) -> None:
        check_fields("evaluation", self)
        require(self.every >= 1, "evaluation.every", self.every, "1 or more")


@dataclass(frozen=True)
class ComputeConfig:
    """Where and how the work runs; none of it changes what is computed, up to rounding."""

    device: str = "auto"
    """'auto' (a GPU when there is one), 'cpu', 'cuda', 'cuda:1', 'mps'."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the blocks; adapter parameters and logits stay float32. 'auto': the faster, measured once per
    machine."""
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    """Attention kernel of the trained blocks: PyTorch's fused one, or plain products. 'auto': the faster, measured
    once. Frozen blocks use the fused one."""
    clients_together: int = 0
    """Clients whose steps run as one batched step; 0: as many as fill the device."""
    loading_threads: int = 0
    """Threads that read and resize images; 0: one per core."""
    activations: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    """Precision in which the frozen blocks' output is kept; 'auto': bfloat16 where the arithmetic is, else
    float16; int8 has a scale per token."""
    cache_folder: str = ""
    """Where activations are kept for later runs; empty: FEDDTL_CACHE or ~/.cache/feddtl; 'off': nowhere."""
    cache_disk_gb: float = 20.0
    """Most gigabytes (10^9 bytes) of activations on disk; the longest unused go first."""
    cache_memory_gb: float = 4.0
    """Most gigabytes of activations held in memory; beyond it they are read from the cache on disk."""

    def __post_init__(self) -> None:
        check_fields("compute", self)
        require(self.clients_together >= 0, "compute.clients_together", self.clients_together, "0 (automatic) or more")
        require(self.loading_threads >= 0, "compute.loading_threads", self.loading_threads, "0 (all cores) or more")
        require(self.cache_disk_gb > 0, "compute.cache_disk_gb", self.cache_disk_gb, "above 0")
        require(self.cache_memory_gb >= 0, "compute.cache_memory_gb", self.cache_memory_gb, "0 or more")


@dataclass(frozen=True)
class Experiment:
    """One experiment: everything that decides its result."""

    method: Method = "feddtl"
    """Which method: feddtl, fedlora (both towers on the client), zero-shot."""
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
