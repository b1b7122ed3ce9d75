"""The page: tables and figures of each setting, put into the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from feddtl.config.protocol import SHAPES
from feddtl.methods.catalog import titles
from feddtl.records import Summary
from feddtl.report import tables
from feddtl.report.accuracy import base_against_novel, by_client, by_round
from feddtl.report.confusion import by_class, changed_images, confused_pairs, halves_figure
from feddtl.report.gallery import MOST_IMAGES, galleries, is_confirmed, read_from
from feddtl.report.missing import who_scored
from feddtl.report.resources import bytes_sent, partition_map, reinforcement, seconds_by_phase
from feddtl.results.grouping import SettingRuns, settings_of
from feddtl.results.labels import path_names
from feddtl.results.reading import Collection, collect
from feddtl.run_origin import start_text
from feddtl.storage import write_text_atomic
from feddtl.units import counted, listed, printable

PAGE = "report.html"


@dataclass(frozen=True)
class Written:
    """A page that was written.

    Attributes:
        path: Its file.
        runs: Number of run folders on it.
        bytes: Its size in bytes.
        problems: What could not be read; they are on the page too.
        unconfirmed: Sources that runs name and that were not read, because nobody confirmed them.
    """

    path: Path
    runs: int
    bytes: int
    problems: tuple[str, ...]
    unconfirmed: tuple[str, ...] = ()


def write_report(
    folder: Path, output: Path | None = None, *, images: bool = True, images_of: Sequence[str] = ()
) -> Written:
    """Write a page of the run in a folder, or of all runs up to three folders below it.

    Args:
        folder: A run folder, or one that contains run folders.
        output: File of the page; None: report.html in `folder`.
        images: Whether the page shows test images.
        images_of: Sources whose images may be read; the runs' own `shapes` are drawn in any case.

    Raises:
        RunError: There is no run that can be read, or the page cannot be written.
    """
    collected = collect(folder)
    path = output or folder / PAGE
    text = render(collected, images=images, images_of=images_of)
    write_text_atomic(path, text)
    unconfirmed = {read_from(run): None for run in collected.runs if images and not is_confirmed(run, images_of)}
    return Written(path, len(collected.runs), len(text.encode()), collected.problems, tuple(unconfirmed))


def render(collected: Collection, *, images: bool = True, images_of: Sequence[str] = (), version: str = "") -> str:
    """The page as text; the same runs give the same text.

    With a version, the page follows its runs: it asks the server that it is from for a newer version.
    """
    settings = settings_of(collected.runs)
    parts = [_part(f"s{number}", setting, len(settings), images, images_of) for number, setting in enumerate(settings)]
    environment = Environment(
        loader=PackageLoader("feddtl.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(
        title=_title(settings),
        collected=collected,
        parts=parts,
        runs=tables.runs(collected.runs),
        images=images,
        version=version,
    )


def _part(name: str, setting: SettingRuns, parts: int, images: bool, images_of: Sequence[str]) -> dict[str, Any]:
    """What the template shows of a setting; a value with nothing to show is empty or None.

    `name` is unique on the page. All `parts` of the page share its number of images.
    """
    notes = [run.with_short_paths(note) for run in setting.runs for note in run.data.get("notes", [])]
    for run in setting.runs:
        told = _notes_of(run.summary) if run.summary else []
        notes += [f"{printable(run.name)}: {note}" if len(setting.runs) > 1 else note for note in told if note]
    pairs = ((method.label, confused_pairs(method)) for method in setting.methods)
    thumbnails, missing = galleries(setting, MOST_IMAGES // parts, images_of) if images else ([], "")
    return {
        "name": name,
        "title": printable(setting.title),
        "setting": setting,
        "facts": _facts(setting),
        "notes": list(dict.fromkeys(notes)),
        "headline": tables.headline(setting),
        "by_round": by_round(setting, name),
        "who_scored": list(filter(None, map(who_scored, setting.runs))),
        "figures": list(filter(None, (base_against_novel(setting, name), by_client(setting, name)))),
        "clients": tables.clients(setting),
        "client_models": tables.client_models(setting),
        "domains": tables.domains(setting),
        "partition": partition_map(setting, name),
        "costs": list(filter(None, (seconds_by_phase(setting, name), bytes_sent(setting, name)))),
        "reinforcement": reinforcement(setting, name),
        "halves": halves_figure(setting, name),
        "pairs": [(label, confused) for label, confused in pairs if confused],
        "by_class": by_class(setting),
        "changed_images": changed_images(setting),
        "galleries": thumbnails,
        "no_gallery": missing,
        "changed_settings": tables.changed_settings(setting),
    }


def _notes_of(summary: Summary) -> list[str]:
    """What a finished run gave reason to say."""
    start = f"Started from {start_text(summary.started_from)}." if summary.started_from else ""
    attack = f"Under attack, as an experiment: {summary.attack}." if summary.attack else ""
    return [attack, start, *(summary.notes or ()), summary.few_images or ""]


def _title(settings: list[SettingRuns]) -> str:
    """Methods and data sets, such as 'FedDTL and FedLoRA on shapes'."""
    if not settings:
        return "No run has begun yet"
    experiments = [run.experiment for setting in settings for run in setting.runs]
    methods = [title for method, title in titles().items() if any(e.method == method for e in experiments)]
    datasets = list(dict.fromkeys(printable(setting.first.data["dataset"]) for setting in settings))
    return f"{listed(methods)} on {listed(datasets)}"


def _facts(setting: SettingRuns) -> list[tuple[str, str]]:
    """What was run, in words."""
    run, config, data = setting.first, setting.first.experiment.data, setting.first.data
    regime = (
        f"few-shot, {counted(config.shots, 'image')} per class" if config.regime == "few-shot" else "full, all images"
    )
    dirichlet = f", α = {config.alpha:g}" if config.is_dirichlet else ""
    novel = len(data["novel_classes"])
    new = f" of new {config.novel}" if config.source == SHAPES else ""
    domains = f" in {len(data['domains'])} domains" if len(data["domains"]) > 1 else ""
    facts = [
        ("Data set", f"{data['dataset']}{domains}" + (f", only {config.domains}" if config.domains else "")),
        ("Classes", f"{len(data['base_classes'])} base, {novel or 'no'} novel{new}"),
        ("Images", "on the clients" if config.on_clients else _numbers_of_images(data, setting)),
        ("Scored", f"{setting.scored}, {100 * setting.setting.condition.held_back:g}% of each class")
        if setting.on_held_back
        else ("", ""),
        ("Regime", regime),
        ("Clients", f"{config.client_count}, {'own images' if config.on_clients else config.partition + dirichlet}"),
        ("Model", path_names([run.experiment.model_name])[run.experiment.model_name]),
        ("Seeds", listed([str(seed) for seed in setting.seeds])),
    ]
    return [(name, printable(text)) for name, text in facts if name]


def _numbers_of_images(data: Mapping[str, Any], setting: SettingRuns) -> str:
    what = "held back" if setting.on_held_back else "test"
    return f"{data['train_images']} training, {data['test_base_images']} + {data['test_novel_images']} {what}"
