"""Prompts: one template with {class} in place of the class name, or several whose embeddings are averaged."""

from __future__ import annotations

from feddtl.checks import Lines, names_a_file

CLASS = "{class}"
ENSEMBLE = "ensemble"  # stands for the usual templates of a data set

TEMPLATES = Lines(
    lambda line: CLASS in line, "one or more templates, a line each, all different and with {class} in them"
)
PROMPT = Lines(
    TEMPLATES.test,
    f"{TEMPLATES.words}; '{ENSEMBLE}', or @FILE with a template on each line",
    lambda text: text == ENSEMBLE or names_a_file(text),  # a file is read later, see `read_prompt`
)


def templates_of(prompt: str) -> tuple[str, ...]:
    """The templates in a prompt, without blank lines and blanks around them; a prompt of one line as it is."""
    if "\n" not in prompt:
        return (prompt,)
    return tuple(line for part in prompt.split("\n") if (line := part.strip()))


def is_ensemble(prompt: str) -> bool:
    """Whether a prompt is, or stands for, several templates."""
    return prompt == ENSEMBLE or len(templates_of(prompt)) > 1
