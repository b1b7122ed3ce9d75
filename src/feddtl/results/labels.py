"""Labels that distinguish the rows of a table or the lines of a figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from feddtl.errors import ConfigError
from feddtl.prompts import templates_of
from feddtl.state_folder import expanded
from feddtl.units import first_few

PROMPTS = ("data.prompt", "fedclip.prompt")
# Settings that may be the path of a folder; a table shows its name without its location.
PATHS = ("model", "init_from", "data.source", "data.root", "compute.cache_folder")


def distinct_labels(titles: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The titles; equal ones are followed by the settings in which they differ: 'FedDTL, lora.rank 8'.

    Args:
        titles: One for each experiment.
        settings: The settings of each by dotted key, the same keys for all.
    """
    labels = []
    for title, own in zip(titles, settings, strict=True):
        rivals = [other for rival, other in zip(titles, settings, strict=True) if rival == title]
        different = [key for key in own if any(other[key] != own[key] for other in rivals)]
        shown = {key: shown_values(key, [other[key] for other in rivals])[own[key]] for key in different}
        labels.append(", ".join([title, *(f"{key} {text}" if text else f"no {key}" for key, text in shown.items())]))
    return labels


def shown_values(key: str, values: Iterable[Any]) -> dict[Any, str]:
    """Text for each value of a setting; for a path only its name, see `path_names`, for a prompt see `prompt_names`."""
    if key in PROMPTS:
        return prompt_names(values)
    return path_names(values) if key in PATHS else {value: str(value) for value in values}


def prompt_names(prompts: Iterable[str]) -> dict[str, str]:
    """A prompt of one template as it is; of several the first and how many more, or all if that is not unique."""
    templates = {prompt: templates_of(prompt) for prompt in prompts}
    short = {prompt: first_few(listed, 1) for prompt, listed in templates.items()}
    counts = Counter(short.values())
    return {prompt: text if counts[text] == 1 else " | ".join(templates[prompt]) for prompt, text in short.items()}


def path_names(paths: Iterable[str]) -> dict[str, str]:
    """The last part of each path, with as many before it as distinguish it from the others: '/home/me/clip' is 'clip'.

    Anything that is not a path, such as a Hub id or the name of a data set, stays as it is.
    """
    parts = {path: Path(path).parts if _is_path(path) else (path,) for path in paths}
    names = {}
    for path, mine in parts.items():
        others = [other for rival, other in parts.items() if rival != path]
        fewest = (count for count in range(1, len(mine)) if all(other[-count:] != mine[-count:] for other in others))
        names[path] = Path(*mine[-next(fewest, len(mine)) :]).as_posix() if path else ""
    return names


def without_paths(text: str, paths: Iterable[str]) -> str:
    """The text with the name of each folder instead of its absolute path."""
    for path in sorted(filter(None, paths), key=len, reverse=True):
        with suppress(ConfigError):  # the home folder of another machine
            if (folder := expanded(path)).is_absolute():
                text = text.replace(path, folder.name).replace(str(folder), folder.name)
    return text


def _is_path(text: str) -> bool:
    """Whether the text is a path; a Hub id has one slash, and does not begin with '.', '/' or '~'."""
    return text.startswith((".", "/", "~")) or text.count("/") > 1
