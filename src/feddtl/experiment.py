"""From an experiment to its result: load, encode, run, write."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from feddtl.absolute_paths import with_absolute_paths
from feddtl.config import Experiment
from feddtl.data.site_sources import SiteSources
from feddtl.data.sites import sites_to_count
from feddtl.environment import choose_device
from feddtl.errors import FeddtlError, RunError
from feddtl.evaluate import Scores, scores_of
from feddtl.log_observer import logged
from feddtl.memory import memory_errors
from feddtl.methods.base import Method
from feddtl.models.kernels import Kernels, choice_line
from feddtl.observers import Observers, RunObserver
from feddtl.outcome import curves_of, write_outcome
from feddtl.predictions import ImagePredictions
from feddtl.preparation import Prepared, prepare
from feddtl.records import Summary
from feddtl.run_files import has_clients_elsewhere, notes_on_paths, resuming
from feddtl.run_origin import recorded_start, require_model
from feddtl.runs import RunFolder
from feddtl.runtimes.context import RunContext
from feddtl.runtimes.fleet import Fleet, FleetInProcess
from feddtl.runtimes.rounds import Progress
from feddtl.runtimes.runtime import Runtime
from feddtl.starting_point import StartingPoint, starting_point
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


def _require_personal_state(folder: RunFolder, method: Method, saved: Progress | None, *, here: bool) -> None:
    """Raise RunError for a run whose clients keep a part of their model elsewhere than its clients are now."""
    if not here and saved and saved.personal:
        raise RunError(
            f"{folder.path} was run in one process; the personal parts of its clients are in this folder, and not on "
            "the clients' machines.",
            f"Resume it here: {resuming(folder.path, 'run')}. A run over Flower may start from its model, with "
            f"--init-from {shlex.quote(str(folder.path))} and another --output, and without these parts.",
        )
    if here and has_clients_elsewhere(folder.path) and method.trained_parameters().personal:
        raise RunError(
            f"{folder.path} was started over Flower; the personal parts of its clients are on their machines.",
            f"Resume it there: {resuming(folder.path)}.",
        )


@dataclass(frozen=True)
class _Begun:
    """A run that has begun, or goes on.

    Attributes:
        prepared: Data, model and method.
        runtime: Runs its rounds.
        start: Where it continues, or begins.
        taken: The run that it begins from; None for the method's own start, and for a run that goes on.
    """

    prepared: Prepared
    runtime: Runtime
    start: Progress
    taken: StartingPoint | None


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
    stopwatch = Stopwatch(choose_device(experiment.compute.device))
    begun = _begin(folder, experiment, observer, stopwatch, connect, kernels, same_model_as, sites)
    prepared, runtime, start = begun.prepared, begun.runtime, begun.start
    zero_shot, before = runtime.score_before_training()
    folder.write_metrics(start.records)
    if prepared.sets.on_clients:
        zero_shot = _as_clients_counted(start)
    observer.run_started(experiment, prepared.data, zero_shot, start.records)
    if begun.taken and not prepared.sets.on_clients:
        observer.note(_start_line(begun, begun.taken))
    progress = _train(folder, runtime, prepared.method, start)
    if prepared.sets.on_clients:
        zero_shot = _as_clients_counted(progress)
    else:
        sets, after = prepared.sets, runtime.predictions(progress.state)
        found = ImagePredictions(sets.labels, sets.domains, sets.owners, before, after, progress.own_hits)
        folder.write_predictions(found)
    seconds = add_seconds(stopwatch.seconds(), *(record.seconds for record in start.records))
    trained = prepared.method.trained_parameters()
    summary = summarise(
        experiment,
        prepared.data,
        trained,
        zero_shot,
        progress,
        seconds,
        runtime.notes(progress),
        recorded_start(folder.path),
    )
    draw = curves_of(experiment, folder, progress, zero_shot, summary)
    write_outcome(folder, prepared.method, progress, summary, draw)
    if progress.records:
        observer.plots_drawn(partial(draw, ending=".png"))
    observer.run_finished(summary)
    return summary


def _begin(
    folder: RunFolder,
    experiment: Experiment,
    observer: RunObserver,
    stopwatch: Stopwatch,
    connect: Connect | None,
    kernels: Kernels | None,
    same_model_as: Path | None,
    sites: SiteSources | None,
) -> _Begun:
    """Prepare a run, check it against what its folder has, and write what it is made from."""
    saved = folder.latest_progress() if folder.has_begun else None
    reason, kernels = "", kernels and replace(kernels, chosen="shared", set_half="")
    if folder.has_begun:
        kernels, reason = folder.kernels, "as when the run began"
    taken = _starting_point(folder, experiment) if saved is None else None
    fit = partial(taken.require_fit, experiment, observer.note) if taken else lambda method: None
    prepared = prepare(experiment, observer, stopwatch, kernels, images_here=connect is None, sites=sites, check=fit)
    if experiment.trains:
        observer.note(choice_line(prepared.kernels, reason))
    _require_personal_state(folder, prepared.method, saved, here=connect is None)
    identity = prepared.method.task.clip.identity()
    for path in filter(None, (folder.path if folder.has_begun else None, same_model_as)):
        if note := require_model(path, experiment.model, identity):
            observer.note(note)
    first = Progress(taken.state(prepared.method)) if taken else None
    origin = taken.origin if taken else None
    folder.begin(
        describe_data(prepared.data),
        choose_device(experiment.compute.device),
        prepared.kernels,
        identity,
        first,
        origin,
    )
    if experiment.rounds != folder.experiment.rounds:
        folder.extend(experiment)
        saved = folder.latest_progress()
    runtime = _runtime(folder, experiment, observer, stopwatch, connect, prepared)
    return _Begun(prepared, runtime, saved or first or Progress(prepared.method.init_server()), taken)


def _starting_point(folder: RunFolder, experiment: Experiment) -> StartingPoint | None:
    """The run that one without a checkpoint begins from; from its first one on, it no longer needs the other."""
    taken = starting_point(Path(experiment.init_from)) if experiment.init_from else None
    if taken and folder.has_begun:
        taken.require_same(folder.path)
    return taken


def _runtime(
    folder: RunFolder,
    experiment: Experiment,
    observer: RunObserver,
    stopwatch: Stopwatch,
    connect: Connect | None,
    prepared: Prepared,
) -> Runtime:
    fleet = FleetInProcess if connect is None else partial(connect, prepared.kernels, folder.name_among_clients())
    return Runtime(
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


def _start_line(begun: _Begun, taken: StartingPoint) -> str:
    """What the model that was taken from another run scores."""
    scores = scores_of(begun.runtime.predictions(begun.start.state), begun.prepared.sets, math.nan)
    shares = f"base {percent(scores.base)}, novel {percent(scores.novel)}"
    return f"Before training, the model of {taken.folder} scores {shares}."


def _train(folder: RunFolder, runtime: Runtime, method: Method, start: Progress) -> Progress:
    """Run the rounds that are left, and count once more at the clients."""
    try:
        before = runtime.score_own_start(start)
        if before is not start:
            folder.save_progress(before)
        progress = runtime.run(before, folder.save_progress) if method.trains else before
        closed = runtime.close(progress)
    except FeddtlError as error:
        runtime.farewell(error)
        raise
    if closed is not progress and method.trains:
        folder.save_progress(closed)
    return closed


def _as_clients_counted(progress: Progress) -> Scores:
    """Scores of the model before training, counted by the clients; NaN until they have reported."""
    before = progress.before
    return Scores(math.nan, before.base, before.novel) if before else Scores(math.nan, math.nan, math.nan)
