"""origin.json of a run folder: what its model was, and where the folder was; imports neither numpy nor torch.

The path of a model or the id of a Hub model says little: another model may lie there later. Its weights, settings and
tokenizer are therefore recorded. The place of the folder helps to find what was moved together with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from feddtl.errors import RunError
from feddtl.sealed_files import read_sealed, write_sealed
from feddtl.units import counted

ORIGIN = "origin.json"
# Keys of an experiment whose values are paths if they are absolute.
PATHS = ("model", "method", "data.source", "data.root", "compute.cache_folder")
# What a model consists of, in words.
PARTS = {
    "weights": "weights",
    "image_tower": "settings of the image tower (config.json)",
    "text_tower": "settings of the text tower (config.json)",
    "preprocessing": "preprocessor (preprocessor_config.json)",
    "tokenizer": "tokenizer",
}


def write_origin(folder: Path, model: Mapping[str, Any], started_from: Mapping[str, Any] | None = None) -> None:
    """Record the place of a run folder, its model's `Backbone.identity`, and what it took from another run, if any."""
    taken = {"started_from": dict(started_from)} if started_from else {}
    write_sealed(folder / ORIGIN, {"folder": str(folder.absolute()), "model": dict(model), **taken})


def recorded_model(folder: Path) -> dict[str, Any]:
    """`Backbone.identity` of a run's model; empty for a run of an earlier version. Raises RunError if damaged."""
    return dict(_read(folder).get("model", {}))


def recorded_start(folder: Path) -> dict[str, Any]:
    """What a run took from another one, see `write_origin`; empty if nothing. Raises RunError if damaged."""
    return dict(_read(folder).get("started_from", {}))


def start_text(started: Mapping[str, Any]) -> str:
    """What `recorded_start` says, in words: 'first, 20 rounds of FedDTL on shapes', and where that started."""
    method, data = started.get("title", started["method"]), started.get("dataset", "")
    text = f"{Path(started['folder']).name}, {counted(started['rounds'], 'round')} of {method}{data and f' on {data}'}"
    before = started.get("started_from")
    return f"{text}, which started from {start_text(before)}" if before else text


def require_model(folder: Path, source: str, model: Mapping[str, Any]) -> str:
    """Check that a model is the one that a run was made from.

    Args:
        folder: Of the run.
        source: Name of the model in errors.
        model: Its `Backbone.identity`.

    Returns:
        A note if the run does not say what its model was, else an empty text.

    Raises:
        RunError: It is another model; the message names the parts that differ.
    """
    recorded = recorded_model(folder)
    if not recorded:
        return (
            f"{folder} was made by an earlier version, which did not record its model: whether {source} is still the "
            "same cannot be checked."
        )
    if different := different_parts(recorded, model):
        raise RunError(
            f"{folder} was made from another model than {source} is now. Other {different}.",
            "Put the model of the run there again, or start a new run with another --output.",
        )
    return ""


def different_parts(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The parts in which two models differ, with their values; a part that either does not have is not compared."""
    found = [part for part in PARTS if part in one and part in other and one[part] != other[part]]
    return "; ".join(f"{PARTS[part]}: {_change(one[part], other[part])}" for part in found)


def moved_paths(values: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, str, str]]:
    """Paths of an experiment that are gone, and that were moved together with the run folder.

    Args:
        values: The experiment as nested tables.
        folder: Of the run, where it is now.

    Yields:
        Key, path in the experiment, and the path that now lies in the same direction from the run folder.
    """
    was, now = _read(folder).get("folder"), folder.absolute()
    if not isinstance(was, str) or was == str(now):
        return
    for key in PATHS:
        path, kind = _path_at(values, key)
        # Without a common folder, a path of the same direction would be a coincidence.
        if not path.startswith("/") or _exists(path) or os.path.commonpath((path, was)) == "/":
            continue
        there = os.path.normpath(now / os.path.relpath(path, was))
        if _exists(there):
            yield key, path + kind, there + kind


def with_moved_paths(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The experiment as nested tables, with the paths of `moved_paths`."""
    changed = dict(values)
    for key, _, path in moved_paths(values, folder):
        table, _, name = key.rpartition(".")
        changed |= {table: {**changed[table], name: path}} if table else {name: path}
    return changed


def _path_at(values: Mapping[str, Any], key: str) -> tuple[str, str]:
    """A path of an experiment, and what follows it: the class of a method."""
    table, _, name = key.rpartition(".")
    inside: Any = values.get(table) if table else values
    value = inside.get(name) if isinstance(inside, Mapping) else None
    if not isinstance(value, str):
        return "", ""
    path, colon, kind = value.partition(".py:") if name == "method" else (value, "", "")
    return (f"{path}.py", f":{kind}") if colon else (path, "")


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)  # noqa: PTH110 - the text of the path is kept as it is
    except (OSError, ValueError):
        return True


def _read(folder: Path) -> dict[str, Any]:
    path = folder / ORIGIN
    if not path.is_file():
        return {}
    try:
        content = read_sealed(path)
        if not isinstance(content.get("model", {}), dict):
            raise ValueError("its 'model' is not a table")
    except ValueError as error:
        raise RunError(
            f"{path} is damaged: {error}.", "Restore it from a copy. Without it, the run's model cannot be checked."
        ) from None
    return content


def _change(before: Any, now: Any) -> str:
    """What is different, in the order of time; hashes are shortened."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return ", ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in keys)
    return f"hash was {str(before)[:12]}…, is {str(now)[:12]}…"
