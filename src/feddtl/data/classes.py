"""Which classes of a data set are trained (base), which are only scored (novel), and which take no part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from feddtl.checks import FILE_MARK
from feddtl.config import DataConfig
from feddtl.config.names import name_key
from feddtl.data.splits import base_novel_classes
from feddtl.data.table import ImageDataset
from feddtl.errors import DataError, did_you_mean
from feddtl.seeding import numpy_generator
from feddtl.units import counted, first_few

MOST_NAMES = 10
LEAST_BASE = 2  # among one class every prediction is right


@dataclass(frozen=True)
class ClassChoice:
    """The classes of an experiment, each in one list at most.

    Attributes:
        base: Names of the classes to train on, in label order.
        novel: Names of the classes to score without training on them, in label order.
        notes: What the user should know.
        unused: Names of the classes that take no part.
    """

    base: tuple[str, ...]
    novel: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names: those of the base classes, then those of the novel ones."""
        return (*self.base, *self.novel)

    @property
    def ranges(self) -> tuple[range, range]:
        """Labels of the base and of the novel classes in `in_order_of(names, …)`."""
        return range(len(self.base)), range(len(self.base), len(self.names))


def choose_classes(names: Sequence[str], config: DataConfig, source: str = "") -> ClassChoice:
    """The base and novel classes among the classes of a data set.

    Args:
        names: All classes, in the data set's own order.
        config: The experiment's data settings.
        source: The data set's name in errors.

    Returns:
        Names as the data set has them; listed ones in the order of the list, others in the order of the data set.

    Raises:
        DataError: A listed class does not exist, or too few classes are left to train on.
    """
    split, source = config.split, source or config.source
    if split == "listed":
        choice = _listed(names, config, source)
    elif split == "none":
        choice = ClassChoice(tuple(names), (), _note_of_default(len(names), config))
    else:
        novel = base_novel_classes(len(names))[1] if split == "half" else _drawn(len(names), config, source)
        choice = _divided(names, set(novel))
    if len(choice.base) < LEAST_BASE and split != "half":
        raise DataError(
            f"{len(choice.base) or 'No'} of the {counted(len(names), 'class')} of {source} would be trained: training "
            f"needs {LEAST_BASE} or more.",
            "Hold out fewer classes: data.classes, data.novel_classes, data.class_split and data.novel_share decide.",
        )
    return choice


def in_order_of(names: Sequence[str], dataset: ImageDataset) -> ImageDataset:
    """The data set with these classes in this order, without the images of others; names without images are not missed.

    Args:
        names: The classes; case, blanks and underscores are ignored.
        dataset: Any data set.
    """
    exact = {name: i for i, name in enumerate(names)}
    new_ids = {name_key(name): i for i, name in enumerate(names)}
    ids = [exact.get(name, new_ids.get(name_key(name), -1)) for name in dataset.class_names]
    train, test = (table.relabelled(np.array(ids, dtype=np.int64)) for table in (dataset.train, dataset.test))
    return replace(dataset, train=train, test=test, class_names=tuple(names))


def found_classes(wanted: Sequence[str], names: Sequence[str], key: str, source: str) -> tuple[str, ...]:
    """The data set's own spelling of listed names; case, blanks and underscores are ignored.

    Args:
        wanted: The listed names.
        names: All classes of the data set.
        key: The setting, for errors.
        source: The data set's name in errors.

    Raises:
        DataError: The data set has no such class.
    """
    exact, by_key = set(names), {name_key(name): name for name in names}
    unknown = [name for name in wanted if name_key(name) not in by_key]
    if unknown:
        listed = first_few([f"'{name}'" for name in unknown], MOST_NAMES)
        nearest = did_you_mean(name_key(unknown[0]), by_key, f"Its classes: {first_few(names, 2 * MOST_NAMES)}.")
        raise DataError(
            f"{source} has no class {listed}, which {key} names.",
            f"{nearest} `feddtl partition` shows all classes.",
        )
    return tuple(name if name in exact else by_key[name_key(name)] for name in wanted)


def classes_of_run(
    dataset: ImageDataset, trained: Sequence[str], scored: Sequence[str], wanted: Sequence[str] = ()
) -> ClassChoice:
    """The classes of a data set that a finished run is scored on: base are those that it trained, novel the others.

    Args:
        dataset: The run's own data, a part of them, or any other data set.
        trained: The base classes of the run.
        scored: Its novel classes.
        wanted: The classes that take part, in any order; empty: the run's if it has all classes of the data set, whose
            images may be of only some of them, else those of the data set.

    Raises:
        DataError: There is no such class.
    """
    keys, known = set(map(name_key, trained)), set(map(name_key, (*trained, *scored)))
    there = set(map(name_key, dataset.class_names))
    if wanted:
        others = [name for name in dataset.class_names if name_key(name) not in known]
        chosen = found_classes(wanted, (*trained, *scored, *others), "data.classes", dataset.name)
        base, novel = (tuple(name for name in chosen if (name_key(name) in keys) == half) for half in (True, False))
        return ClassChoice(base, novel)
    if there <= known:
        return ClassChoice(tuple(trained), tuple(scored))
    base = tuple(name for name in trained if name_key(name) in there)
    novel = tuple(name for name in dataset.class_names if name_key(name) not in keys)
    note = (
        f"{len(base)} of the {counted(len(dataset.class_names), 'class')} of {dataset.name} were trained in this run "
        f"and are base classes: {first_few(base, MOST_NAMES) or 'none'}. The others are novel."
    )
    return ClassChoice(base, novel, (note,))


def _divided(names: Sequence[str], novel: set[int]) -> ClassChoice:
    base = tuple(name for i, name in enumerate(names) if i not in novel)
    return ClassChoice(base, tuple(name for i, name in enumerate(names) if i in novel))


def _listed(names: Sequence[str], config: DataConfig, source: str) -> ClassChoice:
    """The classes of the lists; of one list alone or of 'others', the rest is in the other one or in none."""
    wanted, held_out = config.class_lists
    base = found_classes(wanted, names, "data.classes", source)
    novel = found_classes(held_out, names, "data.novel_classes", source)
    rest = [name for name in names if name not in {*base, *novel}]
    if not config.classes:
        return ClassChoice(tuple(rest), novel)
    if config.others_are_novel:
        return ClassChoice(base, tuple(rest))
    note = (
        f"{counted(len(rest), 'class')} of {source} take no part, because data.classes and data.novel_classes do not "
        f"name them: {first_few(rest, MOST_NAMES)}. With data.novel_classes = 'others' they are scored as novel."
    )
    return ClassChoice(base, novel, (note,) if rest else (), tuple(rest))


def _drawn(count: int, config: DataConfig, source: str) -> set[int]:
    """Class ids of a random share, at least one."""
    wanted = max(1, round(config.novel_share * count))
    if count - wanted < LEAST_BASE:
        raise DataError(
            f"data.novel_share = {config.novel_share} of the {counted(count, 'class')} of {source} leaves "
            f"{count - wanted or 'none'} to train on: training needs {LEAST_BASE} or more.",
            "Lower data.novel_share, or name the classes in data.novel_classes.",
        )
    return set(numpy_generator(config.class_seed, "novel classes").permutation(count)[:wanted].tolist())


def _note_of_default(count: int, config: DataConfig) -> tuple[str, ...]:
    """How to hold classes out, where nobody asked for none."""
    if config.class_split == "none":
        return ()
    return (
        f"All {count} classes are trained, so there is no novel accuracy. To hold classes out, name them in "
        f"data.novel_classes (flag: --data.novel-classes 'NAME, NAME' or {FILE_MARK}FILE), or set data.class_split = "
        "'half' or 'share'.",
    )
