"""What a run writes down: a record of each round (metrics.jsonl, progress.json), and a summary (summary.json).

In memory an accuracy that could not be measured is NaN in a record and None among the headline scores; in files it is
null. Docs: docs/reference/run-folder.md says what each field means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from feddtl.errors import RunError
from feddtl.storage import without_nan

Metrics = Mapping[str, float]
Headline = Mapping[str, float | None]
"""The four headline scores in percent, None where there was nothing to measure."""

SCORE_HEADINGS = {"local": "Local", "base": "Base", "novel": "Novel", "harmonic_mean": "HM"}
"""The headline scores, with the headings of their columns."""

SCORES = tuple(SCORE_HEADINGS)
"""Keys of the headline scores."""
GLOBAL_SCORES = SCORES[1:]
"""Those that a model has on all test images."""


def headline(scores: Mapping[str, float | None]) -> dict[str, float | None]:
    """The headline scores among some scores; those that are absent or NaN are None."""
    found = {key: scores.get(key) for key in SCORES}
    return {key: None if value is None or math.isnan(value) else value for key, value in found.items()}


def scalars_in(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers in nested tables by their path, 'train/loss', without lists and without tables by client."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and not key.endswith("_by_client"):
            found |= scalars_in(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            found[f"{prefix}{key}"] = value
    return found


@dataclass(frozen=True)
class FederatedAccuracy:
    """The global model as the clients score it, each on test images of its own.

    Attributes:
        base: Accuracy in percent over the base test images of all clients that counted; NaN for none.
        novel: The same of novel test images.
        harmonic_mean: Of both.
        base_images: How many base test images that are.
        novel_images: How many novel ones.
        clients: Who counted.
        failures: By client, why it did not count.
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
        values = _as_dict(self)
        if not self.failures:
            del values["failures"]
        return dict(without_nan(values))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FederatedAccuracy:
        """What `to_dict` gave. Raises KeyError or TypeError for anything else."""
        known = _known(cls, _with_nan(values))
        return cls(**{**known, "failures": _by_client(known.get("failures", {}))})


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
    """A round that is done; the fields are in the order of the file.

    Attributes:
        round: Number from 1.
        stage: 'sft' or 'rl'.
        clients: Who was chosen; without lockstep, whose updates were applied, in order of arrival.
        lost: Clients whose update was lost.
        failures: By client, why its update could not be used.
        delays: By applied update, how many others were applied since its client started; None with lockstep.
        train: What the clients measured, mean weighted by images.
        train_by_client: The same for each client.
        server: What the server measured.
        bytes_up: Bytes of the tensors that the clients sent.
        bytes_down: Bytes of the tensors that the server sent.
        virtual_seconds: Simulated time since the start.
        scores: None in a round that is not scored.
        seconds: Wall-clock seconds by phase.
        federated: How the clients score the model after this round; None while they have not.
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
        """Whether the server, or the clients in its place, scored the global model on test images."""
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
        """The numbers of the round by their place in the file, 'train/loss'; see `scalars_in`."""
        return scalars_in({key: value for key, value in self.to_dict().items() if key != "round"})

    @property
    def _scored_by_server(self) -> bool:
        return self.scores is not None and self.scores.base is not None

    def to_dict(self) -> dict[str, Any]:
        """As in a file: the scores are fields like the others, and what there is none of is absent."""
        values: dict[str, Any] = {}
        for name in _names(RoundRecord):
            value = getattr(self, name)
            if isinstance(value, RoundScores):
                values |= {key: score for key, score in _as_dict(value).items() if score is not None}
            elif value is not None and (value or name != "failures"):
                values[name] = value
        if self.federated:
            values["federated"] = self.federated.to_dict()
            # They join a record that is complete, so they come last.
            values |= {} if self._scored_by_server else self.federated.scores
        return dict(without_nan(values))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RoundRecord:
        """What `to_dict` gave. Raises KeyError, TypeError or ValueError for anything else; see `missing_fields`."""
        found = _with_nan(dict(values))
        scores = _known(RoundScores, found)
        if "federated" in found and next(reversed(found)) == GLOBAL_SCORES[-1]:
            # These are the scores of the clients, see `to_dict`.
            scores = {key: value for key, value in scores.items() if key not in GLOBAL_SCORES}
        if scores:
            scores["local_by_client"] = _by_client(scores.get("local_by_client", {}))
            scores["domains"] = {name: tuple(pair) for name, pair in scores.get("domains", {}).items()}
        nested = {
            "failures": _by_client(found.get("failures", {})),
            "train_by_client": _by_client(found.get("train_by_client", {})),
            "scores": RoundScores(**scores) if scores else None,
            "federated": FederatedAccuracy.from_dict(found["federated"]) if found.get("federated") else None,
        }
        return cls(**{**_known(cls, found), **nested})


def missing_fields(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What every record has and some of these, as they were read, have not."""
    return [name for name in _required(RoundRecord) if any(name not in record for record in records)]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The outcome of a run; accuracies in percent, None where there was nothing to measure.

    The fields are in the order of the file. Earlier versions wrote no `trainable_parameters`, `federated`,
    `seconds_by_phase` and `virtual_seconds`; of their runs these are None.

    Attributes:
        method: Name of the method.
        stages: Of local training, such as 'sft-then-rl'.
        dataset: Name of the data set.
        model: Hub id or folder of the CLIP.
        regime: 'few-shot' or 'full'.
        partition: How images are dealt to clients.
        clients: How many.
        seed: Of all randomness.
        rounds: Rounds done.
        trainable_parameters: How many numbers are trained, by where: shared, personal, server.
        zero_shot: Scores before training.
        final: Scores after the last round.
        final_domains: [base, novel] by domain, after the last round.
        final_domain_mean: Base, novel and harmonic mean as means over the domains; None where there is one domain.
        final_client_models: Base, novel and harmonic mean of the clients' own models; None where they were not scored.
        federated: What the clients say of the model 'before' training and the 'final' one; None where none counted.
        best_round: The round with the highest harmonic mean on the test images; not used for selection.
        best: Its scores.
        seconds: Wall-clock time.
        seconds_by_phase: The same by phase, see `feddtl.timing.Phase`.
        bytes_up: Tensors that the clients sent over all rounds, in bytes.
        bytes_down: Tensors that the server sent, in bytes.
        virtual_seconds: Simulated time of all rounds.
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

    def to_dict(self) -> dict[str, Any]:
        """The content of summary.json; what an earlier version did not write is absent."""
        later = ("trainable_parameters", "federated", "seconds_by_phase", "virtual_seconds")
        values = {key: value for key, value in _as_dict(self).items() if value is not None or key not in later}
        if self.federated is not None:
            values["federated"] = {when: found and found.to_dict() for when, found in self.federated.items()}
        return dict(without_nan(values))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], owner: object = "A summary") -> Summary:
        """The summary in a summary.json, whatever else is there.

        Args:
            values: The file's content.
            owner: What an error names.

        Raises:
            RunError: Something is missing.
        """
        known = _known(cls, values)
        if missing := [name for name in _required(cls) if name not in known]:
            raise RunError(
                f"{owner} has no {', '.join(missing)}: it is damaged or from another version.",
                "Use that version, or start a new run with another --output.",
            )
        if federated := known.get("federated"):
            known["federated"] = {k: v and FederatedAccuracy.from_dict(v) for k, v in federated.items()}
        return cls(**known)


def _names(kind: Any) -> list[str]:
    return [one.name for one in fields(kind)]


def _required(kind: Any) -> list[str]:
    return [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]


def _known(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are fields, without those that something else wrote beside them."""
    return {name: values[name] for name in _names(kind) if name in values}


def _as_dict(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _names(record)}


def _by_client(values: Mapping[Any, Any]) -> dict[int, Any]:
    """By client id, which JSON keeps as text."""
    return {int(client): value for client, value in values.items()}


def _with_nan(value: Any) -> Any:
    """A record as it was before `without_nan`: what was not measured is NaN in memory and null in a file."""
    if isinstance(value, dict):
        return {key: _with_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_nan(entry) for entry in value]
    return math.nan if value is None else value
