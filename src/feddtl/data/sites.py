"""A federation in one process: each site of a source is a client, with the images that it would have over Flower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from feddtl.config import DataConfig
from feddtl.config.names import name_key
from feddtl.data.classes import ClassChoice, choose_classes, in_order_of
from feddtl.data.own_images import WHY_REFUSED, OwnImages, own_images_of, present_classes, unknown_classes
from feddtl.data.site_sources import SiteSources, find_sites, named_site, of_site
from feddtl.data.table import ImageDataset, joined_tables
from feddtl.errors import ClassMismatchError, ConfigError, DataError
from feddtl.units import counted, first_few

MOST_NAMES, MOST_NOTES = 10, 50
TWO_CLASSES = "Use at least two classes, at one site or at several."


@dataclass(frozen=True)
class Sites:
    """The sites of a source, each with the images of a client.

    Attributes:
        name: Short name of the source.
        base_names: Classes that are trained, in label order.
        novel_names: Classes that are scored alone.
        prompt_template: Text with `{class}` in it; several, one a line.
        images: By the site's name, in the order of the clients.
        notes: What the user should know.
    """

    name: str
    base_names: tuple[str, ...]
    novel_names: tuple[str, ...]
    prompt_template: str
    images: Mapping[str, OwnImages]
    notes: tuple[str, ...]


def load_sites(
    config: DataConfig, seed: int, copy: str = "", *, held_back: float = 0.0, found: SiteSources | None = None
) -> Sites:
    """The sites of a source, read as over Flower each client reads its own folder or file.

    The classes are those of all sites; a site may lack some.

    Args:
        config: Where the sites are, and which classes are trained.
        seed: Seed of the run, for the few-shot choice.
        copy: Path of a copy on this machine, which replaces the source.
        held_back: Share of the training images that is scored instead of the test images, see `under_regime`.
        found: The sites as they were counted; None: they are looked for.

    Raises:
        ConfigError: `data.clients` is another number than that of the sites.
        DataError: The source has no sites, or the images of one cannot be used; the message names the site.
    """
    found = found or find_sites(config, copy)
    _check_count(found, config)
    scored = replace(config, test_images_per_class=0) if held_back else config
    everything = {}
    for site, read in found.read.items():
        with named_site(site):
            everything[site] = read(scored)
    names = _names_of_all(everything)
    if len(names) < 2:
        raise DataError(f"The sites of {found.where} have a single class: {', '.join(names.values())}.", TWO_CLASSES)
    chosen = choose_classes(tuple(names.values()), config, found.name)
    _require_listed(everything, chosen)
    base, novel = chosen.base, chosen.novel
    images = {}
    for site, dataset in everything.items():
        with named_site(site):
            images[site] = own_images_of(dataset, (base, novel), config, "it", seed, held_back)
    notes = [*found.notes, *chosen.notes, *_notes_of_sites(images), *_notes_of_classes(everything, names)]
    if config.regime == "few-shot":
        notes += _notes_of_shots(everything, base, config.shots)
    prompt = next(iter(everything.values())).prompt_template
    return Sites(found.name, base, novel, prompt, images, tuple(notes))


def _require_listed(everything: Mapping[str, ImageDataset], chosen: ClassChoice) -> None:
    """Raise ClassMismatchError, as each client does over Flower, if sites have classes in neither list; names all."""
    unknown = {site: unknown_classes(chosen.names, dataset) for site, dataset in everything.items()}
    found = [f"{name} ('{site}')" for site, names in unknown.items() for name in names]
    if found:
        raise ClassMismatchError(
            f"Sites have images of classes that data.classes and data.novel_classes do not name: "
            f"{first_few(found, MOST_NAMES)}. {WHY_REFUSED}",
            "Rename the class as it is named there, name it in data.novel_classes, set data.novel_classes = "
            "'others' to score all such classes, or move its images elsewhere.",
        )


def all_sites(config: DataConfig) -> ImageDataset:
    """The images of all sites as one data set, in which each site is a domain. Raises DataError as `load_sites`."""
    found, everything = find_sites(config), []
    for site, read in found.read.items():
        with named_site(site):
            everything.append(read(config))
    names = tuple(_names_of_all(dict(zip(found.read, everything, strict=True))).values())
    ordered = [in_order_of(names, dataset) for dataset in everything]
    train, test = (
        joined_tables(
            [
                replace(table, domains=np.full_like(table.domains, domain))
                for domain, table in enumerate(getattr(dataset, split) for dataset in ordered)
            ]
        )
        for split in ("train", "test")
    )
    notes = list(found.notes)
    notes += [of_site(site, note) for site, own in zip(found.read, ordered, strict=True) for note in own.notes]
    return ImageDataset(
        found.name, train, test, names, tuple(found.read), ordered[0].prompt_template, tuple(notes[:MOST_NOTES])
    )


def sites_to_count(config: DataConfig) -> SiteSources | None:
    """The sites whose number is that of the clients; None where it is known. Raises DataError as `find_sites`."""
    return find_sites(config) if config.clients == "auto" and config.by_site else None


def _check_count(found: SiteSources, config: DataConfig) -> None:
    sites = list(found.read)
    if config.client_count not in (0, len(sites)):
        listed = first_few([f"'{site}'" for site in sites], MOST_NAMES)
        raise ConfigError(
            f"data.clients = {config.clients}, but {found.where} has {counted(len(sites), 'site')}: {listed}.",
            f"Set data.clients = {len(sites)}, or leave it out: 'auto' is the number of sites.",
        )


def _names_of_all(datasets: Mapping[str, ImageDataset]) -> dict[str, str]:
    """The classes of which any site has images, by `name_key`; in alphabetical order, as the first site spells them."""
    names: dict[str, str] = {}
    for dataset in datasets.values():
        for name in present_classes(dataset):
            names.setdefault(name_key(name), name)
    return dict(sorted(names.items(), key=lambda item: item[1]))


def _notes_of_sites(images: Mapping[str, OwnImages]) -> list[str]:
    """The notes of each site's images, with its name."""
    told = [of_site(site, note) for site, own in images.items() for note in own.notes]
    left = len(told) - MOST_NOTES
    return told if left <= 0 else [*told[:MOST_NOTES], f"{left} more notes of this kind are of other sites."]


def _notes_of_classes(datasets: Mapping[str, ImageDataset], names: Mapping[str, str]) -> list[str]:
    """Classes that a single site has, that no site has training images of, or that sites spell differently."""
    sites: dict[str, list[str]] = {key: [] for key in names}
    spelled: dict[str, dict[str, str]] = {key: {} for key in names}
    trained = set()
    for site, dataset in datasets.items():
        for name in present_classes(dataset):
            sites[name_key(name)].append(site)
            spelled[name_key(name)].setdefault(name, site)
        trained |= {name_key(dataset.class_names[label]) for label in np.unique(dataset.train.labels)}
    notes = []
    alone = [f"{names[key]} ('{found[0]}')" for key, found in sites.items() if len(found) == 1]
    if alone and len(datasets) > 1:
        notes.append(f"Classes of a single site: {first_few(alone, MOST_NAMES)}.")
    if untrained := [names[key] for key in names if key not in trained]:
        notes.append(f"No site has training images of: {first_few(untrained, MOST_NAMES)}.")
    for key, found in spelled.items():
        if len(found) > 1:
            listed = [f"'{name}' ('{site}')" for name, site in found.items()]
            notes.append(f"One class, '{names[key]}', has several spellings: {first_few(listed, MOST_NAMES)}.")
    return notes


def _notes_of_shots(datasets: Mapping[str, ImageDataset], base: tuple[str, ...], shots: int) -> list[str]:
    """Classes of which a site has fewer training images than it may use."""
    keys, short = set(map(name_key, base)), []
    for site, dataset in datasets.items():
        counts = np.bincount(dataset.train.labels, minlength=len(dataset.class_names))
        for name, count in zip(dataset.class_names, counts, strict=True):
            if 0 < count < shots and name_key(name) in keys:
                short.append(f"{name} at '{site}' ({count})")
    if not short:
        return []
    return [f"Fewer than {shots} training images at a site, so all of them are used: {first_few(short, MOST_NAMES)}."]
