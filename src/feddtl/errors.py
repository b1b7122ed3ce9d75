"""Errors that a user can fix: each states the problem and the next step."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FeddtlError(Exception):
    """A failure caused by input, data or the machine; the command line shows it without a traceback.

    Attributes:
        message: What is wrong, where, and the offending value.
        hint: The next step for the user; empty if the message already states it.
        for_clients: What every client of a run over Flower may know of it: no path, and nothing that one client alone
            has said; empty: nothing.
    """

    def __init__(self, message: str, hint: str = "", *, for_clients: str = "") -> None:
        super().__init__(f"{message}\n{hint}" if hint else message)
        self.message = message
        self.hint = hint
        self.for_clients = for_clients


class ConfigError(FeddtlError):
    """An experiment file or a flag has an unknown key or a value out of range."""


class DataError(FeddtlError):
    """Images or labels cannot be used: missing folder, unreadable file, too few images."""


class ClassMismatchError(DataError):
    """A client's classes are not those of the experiment; the message names its images and the classes."""


class ModelError(FeddtlError):
    """The CLIP model or an adapter cannot be loaded or does not fit."""


class RunError(FeddtlError):
    """A run folder or a checkpoint cannot be used or written."""


class ClientError(FeddtlError):
    """A client's update cannot be used; the message names client and round."""


class StoppedError(FeddtlError):
    """A run ended before its last round because `feddtl stop` asked for it; it can be resumed."""


class DeploymentError(FeddtlError):
    """A server, a client or a submitted run cannot start, or ended unexpectedly."""


def shown(value: object, most: int = 200) -> str:
    """A value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def did_you_mean(word: str, allowed: Iterable[str], otherwise: str = "") -> str:
    """Suggestion for a misspelt word: the closest allowed word, else another text or a list of all allowed words."""
    options = sorted(allowed)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    return otherwise or f"Allowed: {', '.join(options)}."
