"""Runs whose clients alone have test images: curves over the same clients, and whose images each number is of."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from feddtl.evaluate import mean
from feddtl.federated_accuracy import FederatedAccuracy
from feddtl.records import GLOBAL_SCORES, headline
from feddtl.results.grouping import SettingRuns
from feddtl.results.run import RunResult
from feddtl.results.tables import Cell, Column, Table
from feddtl.runtimes.federated import images_by_client, with_all_images
from feddtl.runtimes.same_clients import LEAST_SHARE, History, SameClients, over_same_clients
from feddtl.units import ClientNames, percent, printable

FOLDERS = re.compile(r"(?<![\w/:])(?:/[^\s/:,;'\"]+)+/")


@dataclass(frozen=True)
class Shown:
    """A setting as its curves show it.

    Attributes:
        setting: With scores over the same clients in all rounds, where some rounds lack clients.
        captions: What the numbers of a measure are of, by measure; none where no round lacks a client.
        hollow: By measure, rounds whose numbers are of fewer clients than others.
    """

    setting: SettingRuns
    captions: dict[str, str]
    hollow: dict[str, frozenset[int]]


def as_shown(setting: SettingRuns) -> Shown:
    """The setting with comparable accuracies; the same where the server has test images and no client was lost."""
    captions: dict[str, str] = {}
    hollow: dict[str, frozenset[int]] = {}
    runs, names = [run for method in setting.methods for run in method.runs], setting.first.client_names
    if same := over_same_clients([history(run) for run in runs], names):
        setting = _changed(setting, lambda run: _over_same_clients(run, same))
        captions |= dict.fromkeys(GLOBAL_SCORES, without_folders(same.caption))
        hollow |= {} if same.clients else dict.fromkeys(GLOBAL_SCORES, same.incomplete)
    rounds = [pair for run in runs if _may_lose_clients(run) for pair in _clients_of_local(run).items()]
    if len({clients for _, clients in rounds}) > 1:
        always = frozenset.intersection(*(clients for _, clients in rounds))
        ever = frozenset.union(*(clients for _, clients in rounds))
        if all(run.experiment.data.on_clients for run in runs) and len(always) >= LEAST_SHARE * len(ever):
            setting = _changed(setting, lambda run: _local_over(run, always))
            captions["local"] = f"Mean over {names.all_of(sorted(always))}, whose models arrived in every round."
        else:
            hollow["local"] = frozenset(number for number, clients in rounds if clients != ever)
            captions["local"] = (
                f"Mean over the {names.noun}s of each round; hollow where some were lost or not selected."
            )
    return Shown(setting, captions, hollow)


def history(run: RunResult) -> History:
    """The clients' scores by round, 0 before training, where they alone have test images; else empty."""
    if not run.experiment.data.on_clients:
        return {}
    before = (run.summary.federated or {}).get("before") if run.summary else None
    found = {0: before} | {record.round: record.federated for record in run.records}
    known = {number: scored for number, scored in found.items() if scored is not None}
    ever = {client for scored in known.values() for client in scored.clients}
    return {number: scored if scored.counts else _inferred(scored, ever) for number, scored in known.items()}


def _inferred(found: FederatedAccuracy, ever: Collection[int]) -> FederatedAccuracy:
    """The same, with who is missing among those that ever scored: earlier versions recorded neither that nor counts."""
    missing = found.missing or sorted(set(ever) - set(found.clients))
    return replace(found, missing=missing, failures=dict.fromkeys(missing, "no reason recorded") | dict(found.failures))


def final_coverage(run: RunResult) -> str:
    """'52 of 78 base images; client 3 missing' of the last scored round; empty where nobody is missing."""
    return _coverage(run, history(run).get(run.last_scored.round) if run.last_scored else None)


def zero_shot_coverage(run: RunResult) -> str:
    """The same of the scores before training."""
    return _coverage(run, history(run).get(0))


def who_scored(run: RunResult) -> Table | None:
    """For each round the accuracy as counted, its images, and who was missing why; None where nobody was."""
    scored = history(run)
    known = images_by_client(scored.values())
    complete = {number: with_all_images(found, known) for number, found in scored.items()}
    if not any(found.missing for found in complete.values()):
        return None
    rows = tuple(
        (str(number) if number else "before training", tuple(map(Cell, _texts(found, run.client_names))))
        for number, found in complete.items()
    )
    columns = ("base", "novel", "HM", "images", "missing")
    title = f"Accuracy in % as counted after each round of {run.name}"
    return Table(title, tuple(map(Column, columns)), rows, corner="round")


def without_folders(text: str) -> str:
    """A client's message with names of files and folders instead of its paths, printable."""
    return printable(FOLDERS.sub("", text))


def _texts(found: FederatedAccuracy, names: ClientNames) -> tuple[str, ...]:
    reasons = [
        f"{names.one(client)}: {found.failures.get(client, 'not asked').rstrip('.')}" for client in found.missing
    ]
    scores = (percent(value) for value in found.scores.values())
    return (*scores, found.images, without_folders("; ".join(reasons)) or "nobody")


def _coverage(run: RunResult, found: FederatedAccuracy | None) -> str:
    if found is None or not run.experiment.data.on_clients:
        return ""
    complete = with_all_images(found, images_by_client(history(run).values()))
    return complete.coverage(run.client_names) if complete.missing else ""


def _may_lose_clients(run: RunResult) -> bool:
    """Whether clients are in other processes, where they fail."""
    return run.experiment.data.on_clients or any(record.failures for record in run.records)


def _clients_of_local(run: RunResult) -> dict[int, frozenset[int]]:
    """Clients behind the local accuracy by scored round."""
    return {record.round: frozenset(record.scores.local_by_client) for record in run.records if record.scores}


def _changed(setting: SettingRuns, change: Callable[[RunResult], RunResult]) -> SettingRuns:
    methods = tuple(replace(method, runs=tuple(map(change, method.runs))) for method in setting.methods)
    return replace(setting, runs=tuple(map(change, setting.runs)), methods=methods)


def _over_same_clients(run: RunResult, same: SameClients) -> RunResult:
    if not run.experiment.data.on_clients:
        return run
    records = tuple(map(same.record, run.records))
    before = history(run).get(0)
    if run.summary is None or before is None:
        return replace(run, records=records)
    scored = same.scores(before)
    zero_shot = {**run.summary.zero_shot, **_headline_of(scored)}
    federated = {**(run.summary.federated or {}), "before": scored}
    return replace(run, records=records, summary=replace(run.summary, zero_shot=zero_shot, federated=federated))


def _headline_of(found: FederatedAccuracy) -> dict[str, float | None]:
    """Base, novel and harmonic mean; None for what was not measured."""
    scores = headline(found.scores)
    return {key: scores[key] for key in GLOBAL_SCORES}


def _local_over(run: RunResult, clients: Collection[int]) -> RunResult:
    records = tuple(
        replace(r, scores=replace(r.scores, local=mean([r.scores.local_by_client[c] for c in sorted(clients)])))
        if r.scores is not None and r.scores.local_by_client.keys() >= set(clients)
        else r
        for r in run.records
    )
    return replace(run, records=records)
