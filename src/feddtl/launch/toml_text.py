"""Settings for Flower's programs as TOML."""

from __future__ import annotations

import json
from collections.abc import Mapping


def toml_text(values: Mapping[str, str | float | bool]) -> str:
    """A line for each key; keys are bare ones of TOML.

    A string of JSON is one of TOML as well, if no character is written as a surrogate pair, and DEL is escaped.
    """
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
    return "".join(lines).replace("\x7f", "\\u007f")
