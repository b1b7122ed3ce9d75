"""The record of a round (metrics.jsonl, progress.json) and the summary of a run (summary.json).

In memory an accuracy that could not be measured is NaN in a record and None among the headline scores; in files it is
null. Docs: docs/reference/run-folder.md says what each field means.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from feddtl.config.running import SCORED_IMAGES, ScoredImages
from feddtl.errors import RunError, shown
from feddtl.federated_accuracy import FederatedAccuracy
from feddtl.record_fields import TABLES_BY_CLIENT, checked, from_file, known_fields, required_fields, without_none
from feddtl.storage import without_nan
from feddtl.units import ClientNames

Metrics = Mapping[str, float]
Headline = Mapping[str, float | None]
"""The four headline scores in percent, None where there was nothing to measure."""

SCORE_HEADINGS = {"local": "Local", "base": "Base", "novel": "Novel", "harmonic_mean": "HM"}
"""The headline scores, with the headings of their columns."""

SCORES = tuple(SCORE_HEADINGS)
GLOBAL_SCORES = SCORES[1:]
"""The scores of a model on all test images."""
RESTORE = "Restore it from a copy, or start a new run with another --output."
NOT_IN_ALL = (
    *("trainable_parameters", "federated", "missing_clients", "local_clients"),
    *(
        "averaging_error",
        "seconds_by_phase",
        "virtual_seconds",
        "scored_on",
        "noise_std",
        "notes",
        "sites",
        "few_images",
        "started_from",
        "attack",
    ),
)
"""Fields of a summary that some files lack: earlier versions did not write them, or there was nothing to say."""


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
        shares: By client, how much it counted, if the aggregator compares clients; else empty. They sum to 1.
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
    shares: Mapping[int, float] = field(default_factory=dict)
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
    def discounted(self) -> list[int]:
        """The clients that counted less than half as much as they would have if all had counted alike."""
        return [client for client, share in self.shares.items() if share < 0.5 / len(self.shares)]

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
                values |= without_none(vars(value))
            elif value or name not in ("failures", "shares"):
                values[name] = value
        if self.federated:
            values["federated"] = self.federated.to_dict()
            # The clients score a round after its record is complete, so their scores come last.
            values |= {} if self._scored_by_server else self.federated.scores
        return dict(without_nan(without_none(values)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RoundRecord:
        """What `to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        found = from_file(values)
        scores = known_fields(RoundScores, found)
        if "federated" in found and next(reversed(found)) == GLOBAL_SCORES[-1]:
            # The clients' scores, see `to_dict`.
            scores = {key: value for key, value in scores.items() if key not in GLOBAL_SCORES}
        if "domains" in scores:
            scores["domains"] = {name: tuple(pair) for name, pair in scores["domains"].items()}
        nested = {
            "scores": RoundScores(**scores) if scores else None,
            "federated": FederatedAccuracy.from_dict(found["federated"]) if found.get("federated") else None,
        }
        record: RoundRecord = checked(cls(**{**known_fields(cls, found), **nested}))
        return record


def read_records(values: Sequence[Mapping[str, Any]], owner: object) -> tuple[RoundRecord, ...]:
    """The records of rounds, each as `to_dict` gave it, from the file `owner`.

    Raises RunError if a field is missing, and TypeError or ValueError if one is damaged.
    """
    for record in values:
        if not isinstance(record, Mapping):
            raise TypeError(f"a round is {shown(record, 40)} instead of a table")
        require_keys(required_fields(RoundRecord), record, f"A round in {owner}")
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
        missing_clients: By client, the rounds whose model it did not score, 0 before training; None where the server
            has test images, or nobody is missing.
        local_clients: Clients behind `final.local`; None where all clients are in this process.
        averaging_error: That of LoRA in the last round that averaged two updates or more, see
            `feddtl.models.averaging`; None where there is none, as in asynchronous runs.
        best_round: The round with the highest harmonic mean on the test images; not used for selection.
        best: Its scores.
        seconds: Wall-clock time of all rounds, as the following fields; see `RoundRecord`.
        seconds_by_phase: See `feddtl.timing.Phase`.
        scored_on: What the accuracies are measured on; what other fields call test images are held-back training images
            where it is 'held-back'. Earlier versions had test images only.
        noise_std: Mean sigma over the images of the first RL round; None unless `rl.noise_std` is 'auto'.
        notes: What the RL rounds gave reason to say, see `feddtl.runtimes.rl_notes`; None for nothing.
        sites: Name of each client, where each is a site; None for clients that have numbers alone.
        few_images: Which accuracies are of fewer than ten images; None for none.
        started_from: What it took from another run, see `feddtl.run_origin`; None for nothing.
        attack: Which attack by which clients, 'label-flip by clients 3 and 7 of 10'; None if all were honest.
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
    missing_clients: Mapping[int, Sequence[int]] | None = None
    local_clients: Sequence[int] | None = None
    averaging_error: float | None = None
    best_round: int
    best: Headline
    seconds: float
    seconds_by_phase: Metrics | None = None
    bytes_up: int
    bytes_down: int
    virtual_seconds: float | None = None
    scored_on: ScoredImages | None = None
    noise_std: float | None = None
    notes: Sequence[str] | None = None
    sites: Sequence[str] | None = None
    few_images: str | None = None
    started_from: Mapping[str, Any] | None = None
    attack: str | None = None

    @property
    def client_names(self) -> ClientNames:
        """What its clients are called."""
        return ClientNames(tuple(self.sites or ()))

    @property
    def scored(self) -> str:
        """What the accuracies are measured on, in words."""
        return SCORED_IMAGES[self.scored_on or "test"]

    def to_dict(self) -> dict[str, Any]:
        """The content of summary.json; what an earlier version did not write is absent."""
        values = {key: value for key, value in vars(self).items() if value is not None or key not in NOT_IN_ALL}
        if self.federated is not None:
            values["federated"] = {when: found and found.to_dict() for when, found in self.federated.items()}
        return dict(without_nan(values))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], owner: object = "A summary") -> Summary:
        """The summary in the content of a file, which may have other keys.

        Raises:
            RunError: A field is missing or damaged.
        """
        if not isinstance(values, Mapping):
            raise RunError(f"{owner} is {shown(values, 40)} instead of a table.", RESTORE)
        known = known_fields(cls, values)
        require_keys(required_fields(cls), known, owner)
        try:
            if federated := known.get("federated"):
                known["federated"] = {k: v and FederatedAccuracy.from_dict(v) for k, v in federated.items()}
            if missing := known.get("missing_clients"):
                known["missing_clients"] = {int(client): rounds for client, rounds in missing.items()}
            summary: Summary = checked(cls(**known))
        except (TypeError, ValueError, AttributeError) as error:
            raise RunError(f"{owner} is damaged: {error}.", RESTORE) from None
        return summary


def require_keys(keys: Iterable[str], values: Mapping[str, Any], owner: object) -> None:
    """Raise RunError if a file of a run, its `owner`, lacks any of these keys."""
    if missing := [key for key in keys if key not in values]:
        raise RunError(
            f"{owner} has no {', '.join(missing)}: it is damaged or from another version.",
            "Use that version, or start a new run with another --output.",
        )
