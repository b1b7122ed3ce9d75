"""Numbers that the FedDTL paper (arXiv 2605.27900) reports, as printed there.

CLIP ViT-B/16, five clients, 20 rounds; means over data sets that are rarely those of a comparison. Tables show them
under a separate heading and never average or compare them with measured numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

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
