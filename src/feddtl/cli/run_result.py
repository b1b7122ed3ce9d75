"""What a finished run prints on standard output."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from feddtl.cli.printing import print_json, print_line
from feddtl.cli.scores import scores_table
from feddtl.config.data import ON_CLIENTS
from feddtl.records import Summary
from feddtl.run_origin import start_text
from feddtl.timing import PHASE_TITLES, PHASES
from feddtl.units import counted, duration, percent, rounds_named, size


def print_result(summary: Summary, title: str, folder: Path, *, as_json: bool) -> None:
    """The summary of a run on standard output, as JSON or as tables; see `print_summary`."""
    if as_json:
        print_json(summary.to_dict())
    else:
        print_summary(summary, title, folder)


def print_summary(summary: Summary, title: str, folder: Path) -> None:
    """Zero-shot beside the method, whose title is given, then time, sizes and the run's folder."""
    console = Console()
    show = partial(print_line, console)
    rounds, parameters = summary.rounds, summary.trainable_parameters or {}
    rows: dict[str, Mapping[str, float | None]] = {_labelled("Zero-shot", summary, "before"): summary.zero_shot}
    if rounds:
        rows[_labelled(title, summary, "final")] = summary.final
    if parameters.get("personal") and summary.final_client_models:
        rows["clients' own models"] = {**summary.final_client_models, "local": summary.final["local"]}
    federated = (summary.federated or {}).get("final")
    if rounds and federated and summary.partition != ON_CLIENTS:  # there it is the final accuracy
        rows[f"on clients' {summary.scored}"] = federated.scores
    after = f" after {counted(rounds, 'round')}" if rounds else ""
    after += f", on {summary.scored}" if summary.scored_on == "held-back" else ""
    console.print(scores_table(rows, f"Accuracy in %{after}"))
    if rounds and parameters.get("personal"):
        show(f"{title}: base, novel and HM are of the global model without the parts that the clients keep")
    if rounds and federated and summary.partition != ON_CLIENTS:
        show(f"on clients' {summary.scored}: the same model, as all clients together score it on their own images")
    for line in missing_lines(summary):
        show(line)
    if summary.attack:
        show(f"under attack: {summary.attack}")
    if summary.few_images:
        show(summary.few_images)
    if summary.final_domains and summary.final_domain_mean:
        show(domains_line(summary.final_domains, summary.final_domain_mean))
    if summary.started_from:
        show(f"started from {start_text(summary.started_from)}")
    if rounds:
        show(parameters_line(parameters))
        if summary.partition != ON_CLIENTS:
            # Without novel images, the best round is that of the highest base accuracy.
            heading, key = ("base", "base") if summary.best["harmonic_mean"] is None else ("HM", "harmonic_mean")
            best = f"{heading} {percent(summary.best[key])} after round {summary.best_round}"
            # Held-back images are there to choose by; test images are not.
            purpose = "" if summary.scored_on == "held-back" else ", not for model selection"
            show(f"highest on the {summary.scored}{purpose}: {best}")
        show(f"time {duration(summary.seconds)}  up {size(summary.bytes_up)}  down {size(summary.bytes_down)}")
    show(time_line(summary.seconds_by_phase or {}))
    show(f"run folder: {folder}")
    show(f"as a page: `feddtl report {shlex.quote(str(folder))}`")


def _labelled(title: str, summary: Summary, when: str) -> str:
    """The title of a row, marked if its base and novel accuracy lack the test images of some clients."""
    found = (summary.federated or {}).get(when)
    return f"{title}, clients missing" if found and found.missing and summary.partition == ON_CLIENTS else title


def missing_lines(summary: Summary) -> list[str]:
    """Which clients the numbers of the table lack, and why; nothing where they lack none."""
    lines, names = [], summary.client_names
    on_clients = summary.partition == ON_CLIENTS
    moments = {"before": "before training"} | ({"final": f"after round {summary.rounds}"} if summary.rounds else {})
    for when, name in moments.items():
        found = (summary.federated or {}).get(when)
        if found is None or not (found.missing or found.failures):
            continue
        what = "base, novel and HM" if on_clients else f"on clients' {summary.scored}"
        coverage = found.coverage(names)
        if not on_clients:
            coverage = f"{found.images}; {names.all_of(list(found.failures))} missing"
        lines.append(f"{what} {name}: {coverage}")
        lines += [f"  {names.one(client)}: {reason}" for client, reason in found.failures.items()]
    if missing := summary.missing_clients:
        rounds = "; ".join(f"{names.one(client)}: {rounds_named(numbers)}" for client, numbers in missing.items())
        lines.append(f"missing when the clients scored the model: {rounds}")
    if (local := summary.local_clients) is not None and len(local) < summary.clients:
        those = names.all_of(local) if local else "none"
        lines.append(f"local: mean over {those} of {counted(summary.clients, names.noun)}")
    return lines


def parameters_line(parameters: Mapping[str, int]) -> str:
    """Counts of trained parameters by kind; kinds without parameters are omitted."""
    where = {"shared": "shared by the clients", "personal": "kept by each client", "server": "on the server"}
    return "trained parameters: " + ", ".join(f"{parameters[k]:,} {v}" for k, v in where.items() if parameters.get(k))


def domains_line(domains: Mapping[str, Any], mean: Mapping[str, float | None]) -> str:
    """Base and novel by domain, and their means."""
    pairs = {**domains, "mean": (mean["base"], mean["novel"])}
    return "base/novel by domain: " + "  ".join(f"{n} {percent(a)}/{percent(b)}" for n, (a, b) in pairs.items())


def time_line(seconds: Mapping[str, float]) -> str:
    """Where the time went, the longest phase first; phases below half a percent count as 'other', which is last."""
    total = sum(seconds.values()) or 1.0
    shown = [phase for phase in PHASES if phase != "other" and seconds.get(phase, 0.0) >= 0.005 * total]
    named = {PHASE_TITLES[phase]: seconds[phase] for phase in sorted(shown, key=lambda phase: -seconds[phase])}
    if other := sum(value for phase, value in seconds.items() if phase not in shown):
        named["other"] = other
    parts = (f"{name} {duration(value, precise=True)} ({value / total:.0%})" for name, value in named.items())
    return "time went to: " + "  ".join(parts)
