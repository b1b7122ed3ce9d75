"""Strings for Flower's programs."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from feddtl.launch.toml_text import toml_text

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(st.from_regex(r"[a-z][a-z-]*", fullmatch=True), TEXTS | st.booleans() | st.integers(0, 9)))
def test_python_reads_what_was_written(values):
    assert tomllib.loads(toml_text(values)) == values
