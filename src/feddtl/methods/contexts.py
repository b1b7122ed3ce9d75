"""Learned context vectors in front of the class name: how many, their start, and whether the model has room."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from feddtl.errors import ConfigError
from feddtl.methods.task import Task
from feddtl.models.text_tower import prompts_for
from feddtl.seeding import torch_generator

# Context vectors where neither their number nor a text is given (CoOp, PromptFL and FedPGP: 16).
LENGTH = 16
# What follows the context vectors.
NAME_PROMPT = "{class}."


class ContextSettings(Protocol):
    """The settings of a method with context vectors; `table` is the name of their table."""

    @property
    def table(self) -> str: ...
    @property
    def context_length(self) -> int: ...
    @property
    def init_std(self) -> float: ...
    @property
    def initial_text(self) -> str: ...


def initial_contexts(task: Task, settings: ContextSettings, purpose: str) -> Tensor:
    """Context vectors (n, d): the token embeddings of `initial_text`, or N(0, σ²) if there is none.

    Args:
        task: The model, its class names and the seed.
        settings: n, σ and the text.
        purpose: Of the random numbers.

    Raises:
        ConfigError: n is not the number of tokens of the text, or the model has no room for n vectors and the names.
    """
    tower, text, length = task.clip.text, settings.initial_text.strip(), settings.context_length
    if text:
        contexts = tower.embed_words(text).detach().cpu().clone()
        if length not in (0, len(contexts)):
            raise ConfigError(
                f"{settings.table}.context_length = {length} contradicts {settings.table}.initial_text = {text!r}, "
                f"which has {len(contexts)} tokens.",
                f"Leave out {settings.table}.context_length, or set it to {len(contexts)}.",
            )
    else:
        drawn = torch.randn(length or LENGTH, tower.width, generator=torch_generator(task.seed, purpose))
        contexts = settings.init_std * drawn
    _require_room(task, settings.table, len(contexts))
    return contexts


def note_on_positions(task: Task, settings: ContextSettings, contexts: int) -> str:
    """What to tell about prompts that reach positions which the text tower never saw in training; empty if none do."""
    trained, names = task.clip.text.trained_tokens, _longest_name(task)
    if trained is None or contexts + names <= trained:
        return ""
    note = (
        f"Prompts of {contexts} context vectors and up to {names} other tokens reach position {contexts + names}; the "
        f"text tower of {task.clip.source} was trained on texts of at most {trained} tokens."
    )
    return (
        note if names >= trained else f"{note} {settings.table}.context_length = {trained - names} stays within them."
    )


def _require_room(task: Task, table: str, contexts: int) -> None:
    most, names = task.clip.text.max_tokens, _longest_name(task)
    if most is None or contexts + names <= most:
        return
    fewer = f"Set {table}.context_length to {most - names} or less, or shorten" if most > names else "Shorten"
    raise ConfigError(
        f"{table}.context_length = {contexts} and prompts of up to {names} other tokens make {contexts + names}; "
        f"{task.clip.source} has {most} positions.",
        f"{fewer} the class names.",
    )


def _longest_name(task: Task) -> int:
    """Tokens of the longest class name with what surrounds it: start, full stop and end."""
    names = (*task.class_names, *task.novel_names)
    ids, _ = task.clip.text.tokenize(prompts_for(names, NAME_PROMPT))
    return ids.shape[1]
