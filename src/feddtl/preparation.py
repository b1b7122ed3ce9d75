"""What a run needs before its first round: images, model and method, and every image once through the frozen blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from feddtl.backbones.catalog import load_backbone
from feddtl.config import Experiment
from feddtl.config.running import SCORED_IMAGES
from feddtl.config.without_effect import without_effect
from feddtl.data.federated import FederatedData, images_on_clients, load_federated_data
from feddtl.data.image_checks import all_damaged_named, copies_note
from feddtl.data.site_sources import SiteSources
from feddtl.data.table import ImageTable
from feddtl.environment import choose_device
from feddtl.errors import RunError
from feddtl.evaluate import EvaluationSets, TestImages
from feddtl.features import ImageEncoder
from feddtl.messages import ServerState
from feddtl.methods.base import Method
from feddtl.methods.catalog import build_method, method_class
from feddtl.methods.task import Task
from feddtl.models.activations import Activations, DeviceMemory
from feddtl.models.backbone import BOTH_TOWERS, Backbone, Tower
from feddtl.models.cache.folder import cache_folder
from feddtl.models.class_texts import require_distinct
from feddtl.models.kernel_choice import choose_kernels
from feddtl.models.kernels import Kernels
from feddtl.notes import Warned
from feddtl.observers import RunObserver
from feddtl.run_files import notes_on_paths, resuming
from feddtl.run_origin import require_model
from feddtl.runs import RunFolder
from feddtl.runtimes.hostile import attack_text, require_embeddings
from feddtl.system.validation import Validation, split_off_validation
from feddtl.timing import Stopwatch
from feddtl.training.client_data import ClientData, rows_of_views
from feddtl.units import ClientNames

NO_ACTIVATIONS = Activations.of(torch.empty(0, 0))


@dataclass(frozen=True)
class Prepared:
    """An experiment ready to run.

    Attributes:
        data: Splits and partition.
        method: The method on its task.
        clients: Every client's activations, by client id.
        sets: What is scored.
        kernels: How the blocks compute.
        validation: Images that are held out from training for FedPPO; None for other selections.
    """

    data: FederatedData
    method: Method
    clients: tuple[ClientData, ...]
    sets: EvaluationSets
    kernels: Kernels
    validation: Validation | None = None


def prepare(
    experiment: Experiment,
    observer: RunObserver | None = None,
    stopwatch: Stopwatch | None = None,
    kernels: Kernels | None = None,
    *,
    images_here: bool = True,
    sites: SiteSources | None = None,
    check: Callable[[Method], None] = lambda method: None,
) -> Prepared:
    """Load data and model, partition, and send every image once through the frozen blocks.

    Args:
        experiment: What to run.
        observer: Receives progress.
        stopwatch: Measures the time by phase.
        kernels: How an earlier part of this run computed the blocks; None: as the experiment says.
        images_here: Whether the clients are in this process; else their training images are only counted.
        sites: The sites as they were counted; None: they are looked for.
        check: Called with the method before any image is encoded; what it raises ends the preparation.
    """
    observer, stopwatch = observer or RunObserver(), stopwatch or Stopwatch()
    with stopwatch.measure("load"):
        data = _load_data(experiment, observer, sites, images_here=images_here)
        clip = load_model(experiment, kernels, None if images_here else _towers_of_server(experiment))
        require_distinct(clip.text, (*data.base_names, *data.novel_names), data.prompt_template)
        method = build_method(task_of(clip, data, experiment.seed), experiment)
    check(method)
    require_embeddings(experiment, method)
    if attack := attack_text(experiment, ClientNames(data.sites)):
        observer.note(Warned(f"Under attack, as an experiment: {attack}."))
    for note in (*method.notes(), *(without_effect(experiment, method.own_optimizer) if method.trains else ())):
        observer.note(note)
    first = method.first_image_block
    encoder = ImageEncoder(clip.image, first, experiment.compute, note=observer.note, stopwatch=stopwatch)
    encode = partial(_encode, encoder, DeviceMemory(clip.image.device), observer)
    trained_here = method.trains and images_here
    tables = (*((data.train,) if trained_here else ()), data.test_base, data.test_novel)
    with all_damaged_named(tables, encoder.threads, observer.note):
        clients = _clients(experiment, data, encode) if trained_here else _without_images(data, method.trains)
        sets = evaluation_sets(data, encode)
        data = _with_copies_noted(data, encoder, observer) if trained_here else data
    # A later run in this process may train other blocks; the weights laid out for the frozen ones are not needed.
    clip.image.stack.release(first)
    validation = None
    if method.trains and experiment.system.selection == "fedppo":
        clients, held_out = split_off_validation(
            clients, experiment.fedppo.validation_share, experiment.seed, ClientNames(data.sites)
        )
        validation = Validation(held_out, data.base_names, clip.logit_scale)
        count = sum(map(len, held_out))
        observer.note(f"{count} of {len(data.train)} training images are held out for client selection.")
    return Prepared(data, method, clients, sets, clip.image.stack.kernels, validation)


def _load_data(
    experiment: Experiment, observer: RunObserver, sites: SiteSources | None, *, images_here: bool
) -> FederatedData:
    if experiment.data.on_clients and not images_here:
        data = replace(images_on_clients(experiment.data), scored=experiment.evaluation.images)
    else:
        held_back = experiment.evaluation.held_back
        data = load_federated_data(experiment.data, experiment.seed, held_back=held_back, sites=sites)
    for note in data.notes:
        observer.note(note)
    return data


def _with_copies_noted(data: FederatedData, encoder: ImageEncoder, observer: RunObserver) -> FederatedData:
    """The data with a note on images that are trained on and scored."""
    train, *scored = [(table, encoder.contents(table)) for table in (data.train, data.test_base, data.test_novel)]
    if note := copies_note(train, scored, SCORED_IMAGES[data.scored]):
        observer.note(note)
        return replace(data, notes=(*data.notes, note))
    return data


def _encode(
    encoder: ImageEncoder, memory: DeviceMemory, observer: RunObserver, table: ImageTable, what: str, views: int = 1
) -> Activations:
    if not len(table):
        return NO_ACTIVATIONS
    return memory.load(encoder.encode(table, partial(observer.images_encoded, what), views=views))


def _towers_of_server(experiment: Experiment) -> frozenset[Tower]:
    """Towers that a server uses whose clients are elsewhere; scoring test images takes both."""
    return method_class(experiment.method).server_towers if experiment.data.on_clients else BOTH_TOWERS


def load_model(
    experiment: Experiment, kernels: Kernels | None = None, towers: frozenset[Tower] | None = None
) -> Backbone:
    """The experiment's backbone on its device, with these kernels or the experiment's.

    'auto' measures a training step of the image tower, so a method that trains nothing computes in float32.

    Args:
        experiment: What to run.
        kernels: How blocks compute; None: as the experiment says.
        towers: The towers to load, see `load_backbone`; None: the whole model.
    """
    compute, folder = experiment.compute, cache_folder(experiment.compute.cache_folder)
    load = partial(load_backbone, experiment.model_name, choose_device(compute.device), remembered_in=folder)
    clip = load(towers=towers)
    if not experiment.trains and compute.precision == "auto":
        return clip
    first_block = clip.image.stack.resolve(experiment.lora.first_image_block, "lora.first_image_block")
    if kernels is None:
        measured = clip if clip.image.stack.is_loaded else load(towers=frozenset(("image",)))
        kernels = choose_kernels(measured, first_block, compute.precision, compute.attention, folder)
    clip.use(kernels)
    return clip


def model_of_run(
    run: RunFolder, experiment: Experiment, device: str = "cpu", note: Callable[[str], None] = lambda text: None
) -> Backbone:
    """The whole model that a run was made from.

    Args:
        run: The run.
        experiment: Its experiment.
        device: See `ComputeConfig.device`.
        note: Called with notes for the user.

    Raises:
        ModelError: It cannot be loaded.
        RunError: Another model is in its place.
    """
    for text in notes_on_paths(run.path):
        note(text)
    clip = load_backbone(experiment.model_name, choose_device(device), remembered_in=cache_folder(""))
    if text := require_model(run.path, experiment.model_name, clip.identity()):
        note(text)
    return clip


def method_of_run(run: RunFolder, experiment: Experiment, clip: Backbone) -> tuple[Method, ServerState]:
    """The method of a run on its base classes, and what the server knew after the last finished round.

    Args:
        run: The run.
        experiment: Its experiment.
        clip: Its model, see `model_of_run`.

    Raises:
        RunError: It has no finished round.
    """
    data, progress = run.data, run.latest_progress()
    task = Task(clip, tuple(data["base_classes"]), data["prompt_template"], experiment.seed)
    method = build_method(task, experiment)
    if progress is None and method.trains:
        raise RunError(f"{run.path} has no finished round.", f"Resume it: {resuming(run.path)}.")
    return method, progress.state if progress else method.init_server()


def _clients(
    experiment: Experiment, data: FederatedData, encode: Callable[[ImageTable, str, int], Activations]
) -> tuple[ClientData, ...]:
    """Every client's images, encoded together; a client's activations are a view of all."""
    views = experiment.data.views
    activations = encode(data.train, "training images", views)
    labels = torch.from_numpy(data.train.labels)
    return tuple(
        ClientData(client, activations.select(rows_of_views(positions, views)), labels[positions], views)
        for client, positions in enumerate(map(torch.from_numpy, data.partition.train))
    )


def _without_images(data: FederatedData, labelled: bool) -> tuple[ClientData, ...]:
    """Clients that train nothing, or elsewhere: no activations, and labels only for counting images."""
    labels = torch.from_numpy(data.train.labels)
    return tuple(
        ClientData(client, NO_ACTIVATIONS, labels[positions if labelled else positions[:0]])
        for client, positions in enumerate(map(torch.from_numpy, data.partition.train))
    )


def evaluation_sets(data: FederatedData, encode: Callable[[ImageTable, str], Activations]) -> EvaluationSets:
    """The images to score through the frozen blocks."""
    return EvaluationSets(
        labelled(data.test_base, encode(data.test_base, f"base {SCORED_IMAGES[data.scored]}"), data.base_names),
        labelled(data.test_novel, encode(data.test_novel, f"novel {SCORED_IMAGES[data.scored]}"), data.novel_names),
        tuple(map(torch.from_numpy, data.partition.test)),
        data.domain_names,
        tuple(map(torch.from_numpy, data.partition.novel)),
    )


def task_of(clip: Backbone, data: FederatedData, seed: int) -> Task:
    """The task that server and clients agree on."""
    # Clients with novel test images of their own are sent what they need to score them.
    novel = data.novel_names if data.on_clients or data.sites else ()
    return Task(clip, data.base_names, data.prompt_template, seed, novel)


def labelled(table: ImageTable, activations: Activations, names: tuple[str, ...]) -> TestImages:
    """Activations of a table's images with their labels and domains."""
    return TestImages(activations, torch.from_numpy(table.labels), torch.from_numpy(table.domains), names)
