"""The files of a comparison: table.md, table.tex, table.csv and comparison.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from feddtl.comparison.choices import Tuned
from feddtl.comparison.chosen_table import chosen_tables
from feddtl.comparison.effect import has_effect
from feddtl.comparison.scores import (
    COSTS,
    ConditionScores,
    MethodScores,
    SettingScores,
    condition_scores,
    setting_scores,
)
from feddtl.comparison.tables import comparison_tables
from feddtl.csv_text import csv_lines
from feddtl.dotted import flatten, with_values
from feddtl.errors import FeddtlError, RunError
from feddtl.experiment_file import settings_by_key
from feddtl.parsing import parse_table
from feddtl.record_fields import check_types, checked
from feddtl.results.hits import RunHits
from feddtl.results.rendering import latex, markdown
from feddtl.results.run import RunResult
from feddtl.results.statistics import Difference, Interval, spread_of
from feddtl.results.tables import Table
from feddtl.state_folder import AnyPath, expanded
from feddtl.storage import write_json_atomic, write_text_atomic

COMPARISON, MARKDOWN, LATEX, CSV = "comparison.json", "table.md", "table.tex", "table.csv"
FILES = (MARKDOWN, LATEX, CSV, COMPARISON)
TUNING = "tuning.json"
TYPES: dict[str, Any] = {
    **dict.fromkeys(("environment", "config", "columns_of_hits", "tuning"), Mapping[str, Any]),
    **dict.fromkeys(("runs", "failures"), Sequence[Mapping[str, Any]]),
}
"""Of what is read from comparison.json."""
# The settings in a row of the CSV file; the others are in comparison.json.
RATES_IN_CSV = ("local.learning_rate", "server.learning_rate")
SETTINGS_IN_CSV = ("data.alpha", "data.shots", "participation", *RATES_IN_CSV)


@dataclass(frozen=True)
class Failure:
    """A cell that could not be run: name and seed of the experiment, what is wrong, and the next step or ''.

    `diverged`: whether training gave numbers that are not finite.
    """

    name: str
    seed: int
    message: str
    hint: str = ""
    diverged: bool = False


@dataclass(frozen=True)
class Comparison:
    """Cells that are finished and cells that failed; everything else follows from them.

    `tuned`: the settings that were chosen on held-back training images, if any.
    """

    outcomes: tuple[RunResult, ...]
    failures: tuple[Failure, ...] = ()
    tuned: Tuned | None = None

    @cached_property
    def settings(self) -> tuple[SettingScores, ...]:
        """Results of each setting."""
        return setting_scores(self.outcomes)

    @cached_property
    def conditions(self) -> tuple[ConditionScores, ...]:
        """Means over the data sets of each condition."""
        return condition_scores(self.settings)

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """Summary and a table for each setting, and the tables of what was chosen, as text."""
        tables = comparison_tables(self.settings, self.conditions, tuned=self.tuned)
        return (*tables, *chosen_tables(self.tuned)) if self.tuned else tables

    def as_dict(self) -> dict[str, Any]:
        """The content of `comparison.json`: environment, every run with its settings, failures, and what follows."""
        environments = [outcome.environment for outcome in self.outcomes]
        environment = max(environments, key=environments.count, default={})
        columns: dict[str, str] = {}
        shared = _shared_settings(self.outcomes)
        return {
            "environment": environment,
            "config": with_values({}, shared),
            "runs": [_record(outcome, environment, shared, columns) for outcome in self.outcomes],
            "columns_of_hits": columns,
            "failures": [asdict(failure) for failure in self.failures],
            "settings": [_setting_as_dict(results) for results in self.settings],
            "means_over_data_sets": [_condition_as_dict(results) for results in self.conditions],
            **({"tuning": self.tuned.to_dict()} if self.tuned else {}),
        }


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """All files of a comparison's folder, each replaced atomically; first comparison.json, which identifies it."""
    write_json_atomic(folder / COMPARISON, comparison.as_dict())
    write_text_atomic(folder / MARKDOWN, markdown(comparison.tables))
    write_text_atomic(folder / LATEX, latex(comparison.tables))
    write_text_atomic(folder / CSV, csv_text(comparison))


def load_comparison(path: AnyPath) -> Comparison:
    """The comparison of a folder, of its comparison.json, or of a file of results/.

    Raises:
        RunError: There is none, or it cannot be read.
    """
    path = expanded(path)
    file = path / COMPARISON if path.is_dir() else path
    try:
        content = parse_table(file.read_bytes())
        check_types(TYPES, content)
        failures = tuple(checked(Failure(**failure)) for failure in content.get("failures", ()))
        tuned = Tuned.from_dict(content["tuning"]) if "tuning" in content else None
        outcomes = tuple(_outcome(record, content["environment"], content) for record in content["runs"])
    except OSError as error:
        raise RunError(
            f"Cannot read {file}: {error.strerror}.", "Pass the --output folder of `feddtl compare`."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise RunError(
            f"{file} is not a comparison, or is damaged: {reason}.",
            "Pass a comparison.json written by `feddtl compare`; that command writes it again from finished runs.",
        ) from None
    except FeddtlError as error:
        raise RunError(f"{file}: {error.message}", error.hint) from None
    return Comparison(outcomes, failures, tuned)


def _shared_settings(outcomes: Sequence[RunResult]) -> dict[str, Any]:
    """By dotted key, the settings that are equal in all runs."""
    first, *others = [settings_by_key(outcome.experiment) for outcome in outcomes] or [{}]
    absent = object()
    return {key: value for key, value in first.items() if all(other.get(key, absent) == value for other in others)}


def _record(
    outcome: RunResult, environment: Mapping[str, Any], shared: Mapping[str, Any], columns: dict[str, str]
) -> dict[str, Any]:
    """A run without the settings that all share; the columns of its hits are added to `columns`."""
    record = outcome.to_record(environment)
    own = {key: value for key, value in flatten(record["config"]).items() if key not in shared}
    hits = {} if outcome.hits is None else {"hits": outcome.hits.to_dict(columns)}
    return {**record, "config": with_values({}, own), **hits}


def _outcome(record: Mapping[str, Any], environment: Mapping[str, Any], content: Mapping[str, Any]) -> RunResult:
    """The run of a record of `comparison.json`; files of earlier versions have all settings in each record."""
    if "config" in record:
        record = {**record, "config": with_values(content.get("config", {}), flatten(record["config"]))}
    outcome = RunResult.from_record(record, environment)
    if "hits" not in record:
        return outcome
    return replace(outcome, hits=RunHits.from_dict(record["hits"], content.get("columns_of_hits", {})))


def csv_text(comparison: Comparison) -> str:
    """One line for each cell: experiment, seed, state, and every number of its summary."""
    rows = list(map(_csv_row, comparison.outcomes))
    for failure in comparison.failures:
        head = {"experiment": failure.name, "seed": failure.seed, "state": "failed", "label": ""}
        rows.append({**head, "failure": failure.message})
    found = dict.fromkeys(column for row in rows for column in row)
    # Some runs lack what is a table in others, whose columns are named after its keys.
    tables = {column.rpartition(".")[0] for column in found}
    empty = {column for column in tables if all(row.get(column) is None for row in rows)}
    columns = [column for column in found if column not in empty] or ["experiment", "seed", "state"]
    return csv_lines(columns, rows)


def _csv_row(outcome: RunResult) -> dict[str, Any]:
    experiment = outcome.experiment
    settings = settings_by_key(experiment)
    named = {key: settings[key] for key in SETTINGS_IN_CSV}
    named |= {key: "" for key in RATES_IN_CSV if not has_effect(experiment, key)}
    head = {"experiment": outcome.name, "seed": outcome.seed, "state": "finished", "label": experiment.title}
    return {**head, **_scalars(outcome.finished.to_dict()), **named}


def _scalars(summary: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key, without notes; base and novel of a domain have separate keys, lists are words in one cell."""
    flat: dict[str, Any] = {}
    for key, value in flatten(summary).items():
        if key == "notes":
            continue
        if key.startswith("final_domains."):
            flat.update(zip((f"{key}.base", f"{key}.novel"), value, strict=False))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            flat[key] = " ".join(map(str, value))
        else:
            flat[key] = value
    return flat


def _setting_as_dict(scores: SettingScores) -> dict[str, Any]:
    return {
        "title": scores.title,
        "dataset": scores.setting.dataset,
        **asdict(scores.setting.condition),
        "best": scores.best,
        "best_client_models": scores.best_client_models,
        "rows": [_method_as_dict(method) for method in scores.methods],
    }


def _method_as_dict(scores: MethodScores) -> dict[str, Any]:
    return {
        "label": scores.label,
        "final": _spreads(scores.final, scores.intervals),
        "client_models": _spreads(scores.client_models, scores.client_model_intervals),
        "personal": scores.personal,
        "difference_to_best": {key: _difference(found) for key, found in scores.differences.items()},
        "client_models_difference_to_best": {
            key: _difference(found) for key, found in scores.client_model_differences.items()
        },
        "leads_in": sorted(scores.leads),
        "client_models_lead_in": sorted(scores.client_models_lead),
        "learning_rate": scores.learning_rate,
        "costs": {key: _rounded(asdict(scores.costs[key])) for key in COSTS if key in scores.costs},
    }


def _condition_as_dict(scores: ConditionScores) -> dict[str, Any]:
    rows = {label: _spreads(means, scores.intervals.get(label, {})) for label, means in scores.methods.items()}
    return {**asdict(scores.condition), "datasets": list(scores.datasets), "rows": rows}


def _spreads(scores: Mapping[str, Mapping[int, float]], intervals: Mapping[str, Interval]) -> dict[str, Any]:
    """Mean, standard deviation, number of seeds and 95 % interval of each score."""
    found = {key: spread_of(values.values()) for key, values in scores.items()}
    return {key: {**_rounded(asdict(spread)), **_ends(intervals.get(key))} for key, spread in found.items() if spread.n}


def _difference(difference: Difference) -> dict[str, Any]:
    return {**_rounded({"mean": difference.mean, "n": difference.n}), **_ends(difference.interval)}


def _ends(interval: Interval | None) -> dict[str, Any]:
    return {} if interval is None else {"interval": [round(interval.low, 4), round(interval.high, 4)]}


def _rounded(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """As summaries round them."""
    return {key: round(number, 4) if isinstance(number, float) else number for key, number in numbers.items()}
