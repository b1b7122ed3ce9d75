"""A data set divided among clients: base and novel classes, the regime's training images, the partition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from feddtl.config import DataConfig
from feddtl.config.protocol import follows_protocol
from feddtl.config.running import ScoredImages
from feddtl.data.classes import choose_classes, in_order_of
from feddtl.data.own_images import unused_images_note
from feddtl.data.partition import Partition, partition
from feddtl.data.regime import held_back_notes, load_all, under_regime
from feddtl.data.shares import Cells
from feddtl.data.site_sources import SiteSources
from feddtl.data.sites import Sites, load_sites
from feddtl.data.sources import domains_note
from feddtl.data.splits import short_classes_note, untested_classes_note
from feddtl.data.table import DEFAULT_PROMPT, ONE_DOMAIN, ImageTable, Indices, joined_tables, of_classes
from feddtl.data.templates import chosen_prompt, ensemble_note
from feddtl.errors import DataError

SPLITS_OF_CLIENT = ("train", "test_base", "test_novel")


@dataclass(frozen=True)
class FederatedData:
    """A data set and its partition among the clients.

    Attributes:
        name: The data set's name.
        base_names: Classes used for training, in label order; see `choose_classes`.
        novel_names: Classes that are scored and not used for training; may be none.
        domain_names: Name per domain id.
        prompt_template: Text with `{class}` in it; several, one a line.
        train: Training images of the base classes under the regime, labels in `base_names`.
        test_base: Images of the base classes to score, labels in `base_names`: test images, or held-back ones.
        test_novel: Images of the novel classes to score, labels in `novel_names`.
        partition: Indices into `train` and `test_base` of every client.
        notes: What the user should know.
        scored: What `test_base` and `test_novel` are.
        unused_names: Classes of the data set that take no part.
        sites: Name of each client, where each is a site; empty where clients have numbers alone.
    """

    name: str
    base_names: tuple[str, ...]
    novel_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    prompt_template: str
    train: ImageTable
    test_base: ImageTable
    test_novel: ImageTable
    partition: Partition
    notes: tuple[str, ...]
    scored: ScoredImages = "test"
    unused_names: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()

    @property
    def on_clients(self) -> bool:
        """Whether the images are on the clients; see `images_on_clients`."""
        return not len(self.train)


def images_on_clients(config: DataConfig) -> FederatedData:
    """What is known about data whose images are on the clients: names, and clients without any image."""
    base, novel = config.class_lists
    none = ImageTable(_no_image, *(np.empty(0, np.int64) for _ in range(3)))
    nobody = tuple(np.empty(0, np.int64) for _ in range(config.client_count))
    parts = Partition(np.zeros((config.client_count, 1, len(base))), nobody, nobody)
    prompt = chosen_prompt(config.prompt, DEFAULT_PROMPT, config.source)
    notes = tuple(filter(None, [ensemble_note(prompt)]))
    return FederatedData(config.source, base, novel, ONE_DOMAIN, prompt, none, none, none, parts, notes)


def _no_image(row: int) -> Image.Image:
    raise DataError(f"Image {row} is on a client.")


def load_federated_data(
    config: DataConfig, seed: int, copy: str = "", *, held_back: float = 0.0, sites: SiteSources | None = None
) -> FederatedData:
    """Load, split and partition the data; a pure function of config, seed and the source's content.

    Args:
        config: Which images, and how to divide them.
        seed: Seed of the run.
        copy: Path of a copy on this machine, which replaces the source.
        held_back: Share of the training images that is scored instead of the test images, see `under_regime`.
        sites: The sites as they were counted; None: they are looked for.

    Raises:
        ConfigError: `data.clients` is not the number of sites.
        DataError: The source cannot be used or divided as requested.
    """
    if config.by_site:
        return _of_sites(load_sites(config, seed, copy, held_back=held_back, found=sites), held_back)
    everything = load_all(config, copy, held_back=held_back)
    chosen = choose_classes(everything.class_names, config, everything.name)
    as_domains = domains_note(everything, config)
    everything, (base, novel) = in_order_of(chosen.names, everything), chosen.ranges
    dataset = under_regime(everything, config, seed, held_back)
    train = of_classes(dataset.train, base)
    test_base, test_novel = of_classes(dataset.test, base), of_classes(dataset.test, novel)
    notes = [*dataset.notes, ensemble_note(dataset.prompt_template), as_domains, *chosen.notes]
    if config.regime == "few-shot":
        notes.append(short_classes_note(of_classes(everything.train, base).labels, config.shots, chosen.base))
    # Of held-back images, another note names the base classes that have none.
    notes.append(untested_classes_note(dataset.test.labels, chosen.names, len(base) if held_back else 0))
    if held_back:
        _require_held_back(test_base)
        notes += held_back_notes(train, test_base, test_novel, chosen.base, held_back)
    elif not follows_protocol(config.source, config.root):
        notes.append(unused_images_note(len(of_classes(everything.train, novel))))
    if config.partition == "non-iid" and config.client_count > len(base):
        notes.append(
            f"{config.client_count} clients and {len(base)} base classes: some classes are split among several clients."
        )
    of_train, of_test = (
        Cells(table.labels, table.domains, len(base), len(dataset.domain_names)) for table in (train, test_base)
    )
    return FederatedData(
        dataset.name,
        chosen.base,
        chosen.novel,
        dataset.domain_names,
        dataset.prompt_template,
        train,
        test_base,
        test_novel,
        partition(of_train, of_test, config, seed),
        tuple(filter(None, notes)),
        "held-back" if held_back else "test",
        chosen.unused,
    )


def _of_sites(sites: Sites, held_back: float) -> FederatedData:
    """The images of all sites, one site after another, each with its own."""
    clients = list(sites.images.values())
    train, base, novel = (joined_tables([getattr(own, key) for own in clients]) for key in SPLITS_OF_CLIENT)
    parts = [_consecutive([len(getattr(own, key)) for own in clients]) for key in SPLITS_OF_CLIENT]
    cells = np.stack([np.bincount(own.train.labels, minlength=len(sites.base_names)) for own in clients])
    notes = list(filter(None, [*sites.notes, ensemble_note(sites.prompt_template)]))
    if held_back:
        _require_held_back(base)
        notes += held_back_notes(train, base, novel, sites.base_names, held_back)
    return FederatedData(
        sites.name,
        sites.base_names,
        sites.novel_names,
        ONE_DOMAIN,
        sites.prompt_template,
        train,
        base,
        novel,
        Partition((cells / np.maximum(1, cells.sum(axis=0)))[:, None, :], *parts),
        tuple(notes),
        "held-back" if held_back else "test",
        sites=tuple(sites.images),
    )


def _consecutive(sizes: Sequence[int]) -> tuple[Indices, ...]:
    """Indices of each client in tables that are joined in the order of the clients."""
    ends = np.cumsum(sizes)
    return tuple(np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True))


def _require_held_back(base: ImageTable) -> None:
    if not len(base):
        raise DataError(
            "No training image of a base class can be held back, because every class has a single one.",
            "Set data.shots = 2 or more, use more images, or set evaluation.images = 'test'.",
        )
