"""The record of a round (metrics.jsonl, progress.json) and the summary of a run (summary.json).

In memory an accuracy that could not be measured is NaN in a record and None among the headline scores; in files it is
null. Docs: docs/reference/run-folder.md says what each field means.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from feddtl.config.running import SCORED_IMAGES, ScoredImages
from feddtl.errors import RunError
from feddtl.storage import without_nan

Metrics = Mapping[str, float]
Headline = Mapping[str, float | None]
"""The four headline scores in percent, None where there was nothing to measure."""

SCORE_HEADINGS = {"local": "Local", "base": "Base", "novel": "Novel", "harmonic_mean": "HM"}
"""The headline scores, with the headings of their columns."""

SCORES = tuple(SCORE_HEADINGS)
GLOBAL_SCORES = SCORES[1:]
"""The scores of a model on all test images."""
TABLES_BY_CLIENT = ("failures", "local_by_client", "train_by_client")


def headline(scores: Mapping[str, float | None]) -> dict[str, float | None]:
    """The headline scores among the given ones; None for absent or NaN."""
    found = {key: scores.get(key) for key in SCORES}
    return {key: None if value is None or math.isnan(value) else value for key, value in found.items()}


def scalars_in(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers in nested tables by their path, 'train/loss', without lists and without tables by client."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and key not in TABLES_BY_CLIENT:
            found |= scalars_in(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            found[f"{prefix}{key}"] = value
    return found


@dataclass(frozen=True)
class FederatedAccuracy:
    """The global model as the clients score it, each on its own test images.

    Attributes:
        base: Accuracy in percent over the base test images of all clients that scored it; NaN for none.
        novel: The same over their novel test images.
        harmonic_mean: Of both.
        base_images: Number of base test images.
        novel_images: Number of novel test images.
        clients: Which clients scored it.
        failures: By client, why it did not.
    """

    base: float
    novel: float
    harmonic_mean: float
    base_images: int
    novel_images: int
    clients: Sequence[int]
    failures: Mapping[int, str] = field(default_factory=dict)

    @property
    def scores(self) -> dict[str, float]:
        """Base, novel and harmonic mean by name."""
        return {key: getattr(self, key) for key in GLOBAL_SCORES}

    def to_dict(self) -> dict[str, Any]:
        """As in a file; without failures where there are none."""
        return {key: without_nan(value) for key, value in vars(self).items() if value or key != "failures"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FederatedAccuracy:
        """What `to_dict` gave. Raises TypeError or ValueError for anything else."""
        return cls(**_known(cls, _from_file(values)))


@dataclass(frozen=True)
class RoundScores:
    """Scores of the models after a round.

    Attributes:
        local: Accuracy in percent of the clients' own models, each on its share of the base test images; their mean.
        local_by_client: The same by client.
        domains: (base, novel) by domain, where there are several.
        base: Accuracy of the global model on the base test images; None where only the clients have test images.
        novel: The same on the novel test images.
        harmonic_mean: Of both.
        client_models: Base, novel and harmonic mean of the clients' own models; None where they were not scored.
    """

    local: float
    local_by_client: Mapping[int, float] = field(default_factory=dict)
    domains: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    base: float | None = None
    novel: float | None = None
    harmonic_mean: float | None = None
    client_models: Metrics | None = None


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """A finished round; the fields are in the order of the file.

    Attributes:
        round: Number from 1.
        stage: 'sft' or 'rl'.
        clients: The selected clients; in asynchronous runs, those whose updates were applied, in order of arrival.
        lost: Clients whose update was lost.
        failures: By client, why its update could not be used.
        delays: By applied update, how many others were applied since its client started; None in synchronous runs.
        train: Measures of local training, mean over the clients weighted by images.
        train_by_client: The same for each client.
        server: Measures of the server's training.
        bytes_up: Bytes of the tensors that the clients sent.
        bytes_down: Bytes of the tensors that the server sent.
        virtual_seconds: Simulated time since the start.
        scores: None in a round that is not scored.
        seconds: Wall-clock seconds by phase.
        federated: The clients' scores of the model after this round; None until they score it.
    """

    round: int
    stage: str
    clients: Sequence[int] = ()
    lost: Sequence[int]
    failures: Mapping[int, str] = field(default_factory=dict)
    delays: Sequence[int] | None = None
    train: Metrics
    train_by_client: Mapping[int, Metrics] = field(default_factory=dict)
    server: Metrics = field(default_factory=dict)
    bytes_up: int
    bytes_down: int
    virtual_seconds: float
    scores: RoundScores | None = None
    seconds: Metrics
    federated: FederatedAccuracy | None = None

    @property
    def is_scored(self) -> bool:
        """Whether the server, or the clients instead, scored the global model on test images."""
        return self._scored_by_server or self.federated is not None

    @property
    def headline(self) -> dict[str, float | None]:
        """The headline scores; those of the clients where the server has no test images."""
        found = {key: getattr(self.scores, key, None) for key in SCORES}
        if self.federated and not self._scored_by_server:
            found |= self.federated.scores
        return headline(found)

    @property
    def scalars(self) -> dict[str, float]:
        """The numbers of the round by their path in the file, 'train/loss'; see `scalars_in`."""
        return scalars_in({key: value for key, value in self.to_dict().items() if key != "round"})

    @property
    def _scored_by_server(self) -> bool:
        return self.scores is not None and self.scores.base is not None

    def to_dict(self) -> dict[str, Any]:
        """As in a file: scores are fields like the others; None is left out."""
        values: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, RoundScores):
                values |= _without_none(vars(value))
            elif value or name != "failures":
                values[name] = value
        if self.federated:
            values["federated"] = self.federated.to_dict()
            # The clients score a round after its record is complete, so their scores come last.
            values |= {} if self._scored_by_server else self.federated.scores
        return dict(without_nan(_without_none(values)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RoundRecord:
        """What `to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        found = _from_file(values)
        scores = _known(RoundScores, found)
        if "federated" in found and next(reversed(found)) == GLOBAL_SCORES[-1]:
            # The clients' scores, see `to_dict`.
            scores = {key: value for key, value in scores.items() if key not in GLOBAL_SCORES}
        if "domains" in scores:
            scores["domains"] = {name: tuple(pair) for name, pair in scores["domains"].items()}
        nested = {
            "scores": RoundScores(**scores) if scores else None,
            "federated": FederatedAccuracy.from_dict(found["federated"]) if found.get("federated") else None,
        }
        return cls(**{**_known(cls, found), **nested})


def read_records(values: Sequence[Mapping[str, Any]], owner: object) -> tuple[RoundRecord, ...]:
    """The records of rounds, each as `to_dict` gave it, from the file `owner`.

    Raises RunError if a field is missing, and TypeError or ValueError if one is damaged.
    """
    for record in values:
        require_keys(_required(RoundRecord), record, f"A round in {owner}")
    return tuple(map(RoundRecord.from_dict, values))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The outcome of a run; accuracies in percent, None where there was nothing to measure.

    The fields are in the order of the file; the first ones are settings of the experiment. Earlier versions wrote no
    `trainable_parameters`, `federated`, `seconds_by_phase`, `virtual_seconds` and `scored_on`; of their runs these are
    None.

    Attributes:
        trainable_parameters: Numbers that are trained, by where: shared, personal, server.
        zero_shot: Scores before training.
        final: Scores after the last round.
        final_domains: [base, novel] by domain, after the last round.
        final_domain_mean: Base, novel and harmonic mean as means over the domains; None where there is one domain.
        final_client_models: Base, novel and harmonic mean of the clients' own models; None where they were not scored.
        federated: The clients' scores of the model 'before' training and the 'final' one; None where none scored it.
        best_round: The round with the highest harmonic mean on the test images; not used for selection.
        best: Its scores.
        seconds: Wall-clock time of all rounds, as the following fields; see `RoundRecord`.
        seconds_by_phase: See `feddtl.timing.Phase`.
        scored_on: What the accuracies are measured on; what other fields call test images are held-back training images
            where it is 'held-back'. Earlier versions had test images only.
    """

    method: str
    stages: str
    dataset: str
    model: str
    regime: str
    partition: str
    clients: int
    seed: int
    rounds: int
    trainable_parameters: Mapping[str, int] | None = None
    zero_shot: Headline
    final: Headline
    final_domains: Mapping[str, Sequence[float | None]]
    final_domain_mean: Headline | None = None
    final_client_models: Headline | None
    federated: Mapping[str, FederatedAccuracy | None] | None = None
    best_round: int
    best: Headline
    seconds: float
    seconds_by_phase: Metrics | None = None
    bytes_up: int
    bytes_down: int
    virtual_seconds: float | None = None
    scored_on: ScoredImages | None = None

    @property
    def scored(self) -> str:
        """What the accuracies are measured on, in words."""
        return SCORED_IMAGES[self.scored_on or "test"]

    def to_dict(self) -> dict[str, Any]:
        """The content of summary.json; what an earlier version did not write is absent."""
        later = ("trainable_parameters", "federated", "seconds_by_phase", "virtual_seconds", "scored_on")
        values = {key: value for key, value in vars(self).items() if value is not None or key not in later}
        if self.federated is not None:
            values["federated"] = {when: found and found.to_dict() for when, found in self.federated.items()}
        return dict(without_nan(values))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], owner: object = "A summary") -> Summary:
        """The summary in the content of a file, which may have other keys. Raises RunError if a field is missing."""
        known = _known(cls, values)
        require_keys(_required(cls), known, owner)
        if federated := known.get("federated"):
            known["federated"] = {k: v and FederatedAccuracy.from_dict(v) for k, v in federated.items()}
        return cls(**known)


def require_keys(keys: Iterable[str], values: Mapping[str, Any], owner: object) -> None:
    """Raise RunError if a file of a run, its `owner`, lacks any of these keys."""
    if missing := [key for key in keys if key not in values]:
        raise RunError(
            f"{owner} has no {', '.join(missing)}: it is damaged or from another version.",
            "Use that version, or start a new run with another --output.",
        )


def _required(kind: Any) -> list[str]:
    return [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]


def _known(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are fields, without those that something else wrote beside them."""
    return {one.name: values[one.name] for one in fields(kind) if one.name in values}


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _from_file(value: Any, by_client: bool = False) -> Any:
    """Undoes what JSON did: what was not measured is NaN in memory and null in a file, client ids are text there."""
    if isinstance(value, Mapping):
        convert = int if by_client else str
        return {convert(key): _from_file(entry, key in TABLES_BY_CLIENT) for key, entry in value.items()}
    if isinstance(value, list):
        return [_from_file(entry) for entry in value]
    return math.nan if value is None else value
