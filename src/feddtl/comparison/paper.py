"""Numbers that the FedDTL paper (arXiv 2605.27900) reports, as printed there.

CLIP ViT-B/16, five clients, 20 rounds; means over data sets that are rarely those of a comparison. Tables show them
under a separate heading and never average or compare them with measured numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from feddtl.config import Experiment
from feddtl.experiment_file import settings_by_key
from feddtl.methods.catalog import method_entry
from feddtl.results.labels import shown_values
from feddtl.results.settings import Condition

CITATION = "FedDTL paper (arXiv 2605.27900), CLIP ViT-B/16"


@dataclass(frozen=True)
class PaperScores:
    """Accuracies in %, as printed; '' where the paper has none."""

    base: str
    novel: str
    harmonic_mean: str = ""


@dataclass(frozen=True)
class PaperTable:
    """One column group of a table of the paper: the data sets that it averages, and scores by title of the method."""

    data: str
    rows: Mapping[str, PaperScores]

    def without(self, labels: Collection[str]) -> PaperTable | None:
        """Only the scores of other rows; None if there are none."""
        rows = {label: scores for label, scores in self.rows.items() if label not in labels}
        return PaperTable(self.data, rows) if rows else None


PaperKey = tuple[str, str, float | None]  # regime, partition, alpha

_NINE, _SEVEN = "mean of nine data sets", "ablation, mean of seven data sets"

COMPARISON: dict[PaperKey, PaperTable] = {
    key: PaperTable(_NINE, {"FedMaPLe": PaperScores(*fedmaple), "FedDTL": PaperScores(*feddtl)})
    for key, fedmaple, feddtl in (
        (("few-shot", "non-iid", None), ("83.63", "77.56"), ("89.58", "83.01")),
        (("few-shot", "dirichlet", 0.1), ("84.05", "77.69"), ("90.95", "82.64")),
        (("full", "non-iid", None), ("80.56", "69.41"), ("91.64", "77.72")),
        (("full", "dirichlet", 0.1), ("89.27", "70.10"), ("92.40", "76.59")),
    )
}

ABLATION: dict[PaperKey, PaperTable] = {
    ("few-shot", "non-iid", None): PaperTable(
        _SEVEN,
        {
            "FedLoRA": PaperScores("78.32", "78.86", "78.56"),
            "FedDTL (SFT only)": PaperScores("86.42", "79.52", "82.60"),
            "FedLoRA + two-stage": PaperScores("79.46", "83.84", "81.47"),
            "FedDTL": PaperScores("90.06", "83.58", "86.51"),
        },
    ),
    ("full", "non-iid", None): PaperTable(
        _SEVEN,
        {
            "FedLoRA": PaperScores("58.11", "70.51", "63.12"),
            "FedDTL (SFT only)": PaperScores("86.68", "73.57", "79.20"),
            "FedLoRA + two-stage": PaperScores("47.91", "76.43", "57.86"),
            "FedDTL": PaperScores("90.58", "80.62", "≈ 85"),
        },
    ),
}
# What the paper's numbers were measured with; in the full regime there are no shots.
CLIENTS, SHOTS = 5, 16
# Settings of the rows whose values the paper states, with all that mean the same; the first block is 10 of 12.
OF_EVERY_ROW: dict[str, tuple[Any, ...]] = {
    "rounds": (20,),
    "init_from": ("",),
    "local.epochs": (2,),
    "local.learning_rate": (1e-3,),
    "local.batch_size": (64,),
    "server.aggregator": ("mean",),
    "attack.name": ("none",),
}
OF_TEMPLATES: dict[str, tuple[Any, ...]] = {"data.prompt": ("a photo of a {class}.", "")}
OF_LORA: dict[str, tuple[Any, ...]] = {
    "local.optimizer": ("auto", "adam"),
    "lora.rank": (4,),
    "lora.first_image_block": (-2, 10),
}
OF_RL: dict[str, tuple[Any, ...]] = {
    "rl.epochs": (3,),
    "rl.group_size": (3,),
    "rl.noise_std": (0.1,),
    "rl.action": ("argmax",),
    "rl.clip": (0.2,),
    "rl.kl_weight": (0.5,),
    "rl.kl": ("sampled",),
    "rl.anchor_weight": (0.5,),
}
OF_THE_SERVER: dict[str, tuple[Any, ...]] = {
    "server.learning_rate": (1e-3,),
    "server.batch_size": (64,),
    "uplink.max_embeddings_per_class": (0,),
}
# Rows that only an ablation has.
ABLATED = frozenset(("FedLoRA + two-stage", "FedDTL (SFT only)"))

# One accuracy for each partition, which no column of a comparison corresponds to.
DOMAINNET: dict[PaperKey, Mapping[str, str]] = {
    ("full", "domain", None): {"FedMaPLe": "91.94", "FedDTL": "93.38"},
    ("full", "domain-dirichlet", 0.1): {"FedMaPLe": "90.51", "FedDTL": "93.47"},
}


def paper_key(condition: Condition) -> PaperKey:
    """The key of a condition in the paper's tables."""
    return condition.regime, condition.partition, condition.alpha


def other_settings(experiment: Experiment) -> tuple[str, ...]:
    """What an experiment has in place of the paper's settings: 'lora.rank 8 instead of 4'.

    Settings that the paper leaves open, and those without an effect on the method, do not count.
    """
    entry = method_entry(experiment.method)
    stated = {
        **OF_EVERY_ROW,
        **({} if entry.learns_prompts else OF_TEMPLATES),
        **(OF_LORA if entry.has_lora else {}),
        **(OF_RL if experiment.stages == "sft-then-rl" else {}),
        **(OF_THE_SERVER if entry.trains_on_server else {}),
    }
    values = settings_by_key(experiment)
    return tuple(
        key if key == "init_from" else f"{key} {shown_values(key, [values[key]])[values[key]]} instead of {allowed[0]}"
        for key, allowed in stated.items()
        if values[key] not in allowed
    )


def different_rows(rows: Mapping[str, Iterable[Experiment]]) -> dict[str, str]:
    """By label of a row, what any of its experiments has in place of the paper's settings; only rows that differ."""
    found = {label: [text for one in own for text in other_settings(one)] for label, own in rows.items()}
    return {label: ", ".join(dict.fromkeys(texts)) for label, texts in found.items() if texts}


def paper_table(condition: Condition, labels: Collection[str], *, mean_over_data: bool) -> PaperTable | None:
    """The paper's numbers for a table with these rows; None if it has none for this regime and these clients."""
    if (
        condition.held_back
        or condition.clients != CLIENTS
        or condition.shots not in (SHOTS, None)
        or condition.participation < 1
    ):
        return None
    if ABLATED & set(labels):
        return ABLATION.get(paper_key(condition))
    return COMPARISON.get(paper_key(condition)) if mean_over_data else None
