"""Errors of the flag parser, printed like every other error: `error: …`, and hints below it."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr

from feddtl.line_breaks import fitted

BAD_FLAGS = 2  # tyro's exit code
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# What the parser says of a value of the wrong type, and what is said instead.
PLAINER = (
    (
        re.compile(r"no type matching FLOAT\|\{(\w+)\} could be instantiated from \[(.*?)\]\..*"),
        r"\2 is not a number or '\1'.",
    ),
    (re.compile(r"invalid literal for int\(\) with base 10: (.*)"), r"\1 is not a whole number."),
    (re.compile(r"could not convert string to float: (.*)"), r"\1 is not a number."),
    (
        re.compile(r"(--\S*seeds): Could not find valid parse for arguments: \[(.*?)\]"),
        r"\1: not all whole numbers: \2.",
    ),
    (re.compile(r"Could not find valid parse for arguments: \[(.*?)\]"), r"not all numbers: \1."),
)
# Flags that other programs have, and what is said here, by those that have the flags of an experiment.
HERE = {
    "--lr": "--local.learning-rate",
    "--learning-rate": "--local.learning-rate",
    "--epochs": "--local.epochs",
    "--local-epochs": "--local.epochs",
    "--batch-size": "--local.batch-size",
    "--bs": "--local.batch-size",
    "--momentum": "--local.momentum",
    "--weight-decay": "--local.weight-decay",
    "--optimizer": "--local.optimizer",
    "--shots": "--data.shots",
    "--num-shots": "--data.shots",
    "--dataset": "--data.source",
    "--data": "--data.source",
    "--data-dir": "--data.root",
    "--root": "--data.root",
    "--partition": "--data.partition",
    "--alpha": "--data.alpha",
    "--clients": "--data.clients",
    "--num-clients": "--data.clients",
    "--num-users": "--data.clients",
    "--num-rounds": "--rounds",
    "--frac": "--participation",
    "--fraction-fit": "--participation",
    "--algorithm": "--method",
    "--backbone": "--model",
    "--arch": "--model",
    "--rank": "--lora.rank",
    "--lora-rank": "--lora.rank",
    "--device": "--compute.device",
    "--precision": "--compute.precision",
    "--output-dir": "--output",
    "--out": "--output",
    "--seeds": "--seed",
    "--gpu": "--compute.device cuda",
    "--cuda": "--compute.device cuda",
    "--workers": "--compute.loading-threads",
    "--num-workers": "--compute.loading-threads",
}
# The same for commands that use the model of a run.
OF_A_MODEL = {flag: HERE[flag] for flag in ("--device", "--gpu", "--cuda")}
OF_OTHER_DATA = {flag: HERE[flag] for flag in ("--dataset", "--data", "--data-dir", "--root")}
COUNTERPARTS = {
    **dict.fromkeys(("run", "submit", "partition"), HERE),
    "compare": {flag: here for flag, here in HERE.items() if here != "--seed"},
    "predict": {**OF_A_MODEL, "--topk": "--top-k"},
    "embed": OF_A_MODEL,
    "evaluate": {**OF_A_MODEL, **OF_OTHER_DATA},
}
UNKNOWN = re.compile(r"^Unrecognized options: ")
SIMILAR = re.compile(r"(?:Arguments similar to (.*)|Perhaps you meant):")  # the latter if there is one such flag
MORE = re.compile(r"For full helptext, run (.*)")
BORDER = re.compile(r"^│ ?|\s*│$")


@contextmanager
def plain_parse_errors(command: str = "") -> Iterator[None]:
    """Print tyro's errors without their box; the exit code stays.

    Args:
        command: Name of the command, which may have counterparts of the flags of other programs.
    """
    printed = io.StringIO()
    code: object = None
    try:
        with redirect_stderr(printed):
            yield
    except SystemExit as exit_:
        code = exit_.code
        raise
    finally:
        said = printed.getvalue()
        sys.stderr.write(fitted(unboxed(said, COUNTERPARTS.get(command)), sys.stderr) if code == BAD_FLAGS else said)


def unboxed(text: str, here: Mapping[str, str] | None = None) -> str:
    """A box as `error: …` and indented lines; any other text unchanged.

    Args:
        text: What the parser printed.
        here: By flag that the command lacks, the one that it has instead.
    """
    inside = _inside([COLOUR.sub("", line) for line in text.splitlines()])
    if not inside:
        return text
    rules = [index for index, line in enumerate(inside) if set(line) in ({"─"}, {"-"})]
    # Up to the first rule is the message, broken between words; lines that are indented are a list.
    end = rules[0] if rules else len(inside)
    first = next((index for index, line in enumerate(inside[:end]) if line.startswith(" ")), end)
    message = " ".join(inside[:first]).removeprefix("Error parsing ")
    for said, plainer in PLAINER:
        message = said.sub(plainer, message)
    rest = [MORE.sub(r"See `\1`.", line) for index, line in enumerate(inside[first:], first) if index not in rules]
    if UNKNOWN.match(message):
        words = UNKNOWN.sub("", message).split(", ")
        flags = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("-")]
        known = {flag: here[flag] for flag in flags if flag in here} if here else {}
        message = f"Unrecognized options: {', '.join(flags or words)}"
        rest = [f"{flag} is {name} here." for flag, name in known.items()] + list(_unlike(rest, known))
    rest = [f"  {line}" for line in rest]
    return "\n".join([f"error: {message[:1].upper()}{message[1:]}", *rest]) + "\n"


def _unlike(lines: list[str], known: Collection[str]) -> Iterator[str]:
    """Lines without the flags that are similar to those whose counterpart is known."""
    skipped = False
    for line in lines:
        if not line.startswith(" "):
            similar = SIMILAR.fullmatch(line)
            skipped = similar is not None and (similar[1] or next(iter(known), "")).replace("_", "-") in known
        if not skipped:
            yield line


def _inside(lines: list[str]) -> list[str]:
    """Lines within the frame; where the output is not UTF-8, a title above a rule takes its place."""
    if lines and lines[0].startswith("╭"):
        return [BORDER.sub("", line) for line in lines[1:] if not line.startswith("╰")]
    if len(lines) > 1 and set(lines[1].strip()) == {"-"}:
        return [line[2:].rstrip() for line in lines[2:] if line.strip()]
    return []
