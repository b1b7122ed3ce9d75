"""From an experiment to its result: load, encode, run, write."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from feddtl.absolute_paths import with_absolute_paths
from feddtl.config import Experiment, SystemConfig
from feddtl.curves import write_curves
from feddtl.data.site_sources import SiteSources
from feddtl.data.sites import sites_to_count
from feddtl.environment import choose_device
from feddtl.errors import ConfigError, FeddtlError, RunError, shown
from feddtl.evaluate import Scores, scores_of
from feddtl.log_observer import logged
from feddtl.memory import memory_errors
from feddtl.methods.base import Method
from feddtl.models.kernels import Kernels, choice_line
from feddtl.observers import Observers, RunObserver
from feddtl.predictions import ImagePredictions
from feddtl.preparation import prepare
from feddtl.records import Summary
from feddtl.run_files import has_clients_elsewhere, notes_on_paths, resuming
from feddtl.run_origin import require_model
from feddtl.runs import RunFolder
from feddtl.runtimes.context import RunContext
from feddtl.runtimes.fleet import Fleet, FleetInProcess
from feddtl.runtimes.rounds import Progress
from feddtl.runtimes.runtime import Runtime
from feddtl.starting_point import starting_point
from feddtl.state_folder import AnyPath, expanded
from feddtl.summary import describe_data, summarise
from feddtl.timing import Stopwatch, add_seconds
from feddtl.units import ClientNames, percent

# (kernels of the run, its name among its clients, the server's context) -> clients elsewhere
Connect = Callable[[Kernels, str, RunContext], Fleet]


def run_experiment(
    experiment: Experiment,
    output: AnyPath,
    *,
    resume: bool = False,
    extend: bool = False,
    observer: RunObserver | None = None,
    connect: Connect | None = None,
    kernels: Kernels | None = None,
    same_model_as: AnyPath | None = None,
) -> Summary:
    """Run an experiment into a folder, or resume the run in this folder.

    Args:
        experiment: What to run.
        output: Folder of the run; new or empty unless `resume`.
        resume: Continue from the last checkpoint in `output`, which must have the same experiment and images.
        extend: A resumed run may get another number of rounds, if the finished ones are the same with that number.
        observer: Receives progress.
        connect: Connects clients in other processes; None: the clients are in this process.
        kernels: How blocks compute in a new run, as another run chose; None: as the experiment says.
        same_model_as: Folder of a run whose model this one must have too; None: any.

    Returns:
        The outcome, as in `summary.json`.

    Raises:
        FeddtlError: Bad input; an existing run is never changed by it.
    """
    output = expanded(output)
    same_model_as = None if same_model_as is None else expanded(same_model_as)
    sites = sites_to_count(experiment.data)
    experiment = with_client_count(experiment, sites)
    observer = observer or RunObserver()
    note_on_model = experiment.model_note
    experiment = with_absolute_paths(experiment.with_model())
    if resume and connect is None and experiment.data.on_clients:
        raise RunError(
            f"The images of the run in {output} are on its clients, so it runs over Flower.",
            f"Resume it there: {resuming(output, 'submit')}.",
        )
    opened = partial(RunFolder.resumed, extend=extend) if resume else RunFolder.announced
    _require_start_here(experiment, connect)
    with opened(output, experiment) as folder:
        finished = folder.summary
        if finished is not None and folder.experiment.rounds == experiment.rounds:
            for note in (f"{folder.path} is already finished; this is its summary.", *(finished.notes or ())):
                observer.note(note)
            return finished
        # Inside of the blocks that log an error, and that remove the folder of a run that could not begin.
        with logged(folder.path, experiment, remote=connect is not None) as log, memory_errors():
            observers = Observers(log, observer)
            if note_on_model:
                observers.note(note_on_model)
            try:
                return _run_in(folder, experiment, observers, connect, kernels, same_model_as, sites)
            except BaseException:
                with suppress(Exception):  # it must not hide why the run ended
                    observers.run_failed()
                raise


def with_client_count(experiment: Experiment, sites: SiteSources | None = None) -> Experiment:
    """The experiment with the number of clients in place of 'auto'.

    Args:
        experiment: Any.
        sites: Those to count; None: they are looked for where that is needed.

    Raises:
        ConfigError: Another setting contradicts the number.
        DataError: The sites of the source cannot be counted.
    """
    if experiment.data.clients != "auto":
        return experiment
    sites = sites or sites_to_count(experiment.data)
    clients = len(sites.read) if sites else experiment.data.client_count
    return replace(experiment, data=replace(experiment.data, clients=clients))


def _require_start_here(experiment: Experiment, connect: Connect | None) -> None:
    """Raise ConfigError for a run over Flower that starts from another one."""
    if experiment.init_from and connect is not None:
        # Where clients alone have test images, their scores before round 1 stand for zero-shot in every table.
        raise ConfigError(
            f"init_from = {shown(experiment.init_from)} needs all clients in one process.",
            "Omit init_from, or run the experiment with `feddtl run`.",
        )


def _require_personal_state_here(folder: RunFolder, method: Method) -> None:
    """Raise RunError for a run whose clients keep a part of their model on other machines."""
    if has_clients_elsewhere(folder.path) and method.trained_parameters().personal:
        raise RunError(
            f"{folder.path} was started over Flower; the personal parts of its clients are on their machines.",
            f"Resume it there: {resuming(folder.path)}.",
        )


def _run_in(
    folder: RunFolder,
    experiment: Experiment,
    observer: RunObserver,
    connect: Connect | None,
    kernels: Kernels | None,
    same_model_as: Path | None,
    sites: SiteSources | None,
) -> Summary:
    """Run, or continue, in a folder that this process has locked."""
    for note in notes_on_paths(folder.path):
        observer.note(note)
    device = choose_device(experiment.compute.device)
    stopwatch = Stopwatch(device)
    saved = folder.latest_progress() if folder.has_begun else None
    reason, kernels = "", kernels and replace(kernels, chosen="shared", set_half="")
    if folder.has_begun:
        kernels, reason = folder.kernels, "as when the run began"
    # From its first checkpoint on, a run no longer needs the one that it starts from.
    taken = starting_point(Path(experiment.init_from)) if experiment.init_from and saved is None else None
    if taken and folder.has_begun:
        taken.require_same(folder.path)
    fit = partial(taken.require_fit, experiment, observer.note) if taken else lambda method: None
    prepared = prepare(experiment, observer, stopwatch, kernels, images_here=connect is None, sites=sites, check=fit)
    if experiment.trains:
        observer.note(choice_line(prepared.kernels, reason))
    if connect is None:
        _require_personal_state_here(folder, prepared.method)
    identity = prepared.method.task.clip.identity()
    for begun in filter(None, (folder.path if folder.has_begun else None, same_model_as)):
        if note := require_model(begun, experiment.model, identity):
            observer.note(note)
    first = Progress(taken.state(prepared.method)) if taken else None
    origin = taken.origin if taken else None
    folder.begin(describe_data(prepared.data), device, prepared.kernels, identity, first, origin)
    if experiment.rounds != folder.experiment.rounds:
        folder.extend(experiment)
        saved = folder.latest_progress()
    fleet = FleetInProcess if connect is None else partial(connect, prepared.kernels, folder.name_among_clients())
    runtime = Runtime(
        prepared.method,
        prepared.clients,
        prepared.sets,
        experiment,
        observer,
        stopwatch,
        prepared.validation,
        fleet,
        ClientNames(prepared.data.sites),
    )
    zero_shot, before = runtime.score_before_training()
    start = saved or first or Progress(prepared.method.init_server())
    folder.write_metrics(start.records)
    if prepared.sets.on_clients:
        zero_shot = _as_clients_counted(start)
    observer.run_started(experiment, prepared.data, zero_shot, start.records)
    if taken:
        scores = scores_of(runtime.predictions(start.state), prepared.sets, math.nan)
        shares = f"base {percent(scores.base)}, novel {percent(scores.novel)}"
        observer.note(f"Before training, the model of {taken.folder} scores {shares}.")
    try:
        progress = runtime.run(start, folder.save_progress) if prepared.method.trains else start
        closed = runtime.close(progress)
    except FeddtlError as error:
        runtime.farewell(error)
        raise
    if closed is not progress and prepared.method.trains:
        folder.save_progress(closed)
    progress = closed
    if prepared.sets.on_clients:
        zero_shot = _as_clients_counted(progress)
    else:
        sets, after = prepared.sets, runtime.predictions(progress.state)
        found = ImagePredictions(sets.labels, sets.domains, sets.owners, before, after, progress.own_hits)
        folder.write_predictions(found)
    seconds = add_seconds(stopwatch.seconds(), *(record.seconds for record in start.records))
    trained = prepared.method.trained_parameters()
    summary = summarise(experiment, prepared.data, trained, zero_shot, progress, seconds, runtime.notes(progress))
    draw = partial(
        write_curves,
        data=folder.data,
        progress=progress,
        zero_shot=zero_shot,
        title=_title_of_curves(summary),
        over_time=experiment.system != SystemConfig(),
    )
    _write_outcome(folder, prepared.method, progress, summary, draw)
    if progress.records:
        observer.plots_drawn(partial(draw, ending=".png"))
    observer.run_finished(summary)
    return summary


def _as_clients_counted(progress: Progress) -> Scores:
    """Scores of the model before training, counted by the clients; NaN until they have reported."""
    before = progress.before
    return Scores(math.nan, before.base, before.novel) if before else Scores(math.nan, math.nan, math.nan)


def _write_outcome(
    folder: RunFolder, method: Method, progress: Progress, summary: Summary, draw: Callable[[Path], None]
) -> None:
    """Write what was trained, the curves and, last, the summary: a folder with a summary is a finished run."""
    adapters = method.adapters(progress.state)
    folder.write_adapters(adapters, summary.model)
    if not adapters:
        metadata = {key: str(getattr(summary, key)) for key in ("method", "model", "rounds")}
        folder.write_tensors(method.trained_tensors(progress.state), progress.personal, metadata)
    if progress.records:
        draw(folder.path)
    folder.write_summary(summary)


def _title_of_curves(summary: Summary) -> str:
    title = f"{summary.method} on {summary.dataset}, {summary.regime}, {summary.partition}"
    return title + (f", {summary.scored}" if summary.scored_on == "held-back" else "")
