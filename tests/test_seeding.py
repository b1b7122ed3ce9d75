"""Seeds by purpose: equal on every machine, and no two of them related."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from feddtl.seeding import derive_seed, numpy_generator, torch_generator


def test_seeds_of_earlier_versions() -> None:
    """Results of years ago can be repeated. By hand: printf 0/shuffle/3/7 | sha256sum, first 16 digits, halved."""
    assert derive_seed(0, "shuffle", 3, 7) == 1276576199918911539
    assert derive_seed(1, "shuffle", 3, 7) == 4090481517997270548


def test_another_process_draws_the_same() -> None:
    code = "from feddtl.seeding import *; print(derive_seed(4, 'noise', 1), torch_generator(4, 'noise').initial_seed())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert out == [str(derive_seed(4, "noise", 1)), str(torch_generator(4, "noise").initial_seed())]


@given(st.integers(0, 2**31 - 1), st.text(max_size=5), st.lists(st.integers(0, 999), max_size=3))
def test_range(seed: int, purpose: str, numbers: list[int]) -> None:
    assert 0 <= derive_seed(seed, purpose, *numbers) < 2**63


def test_seed_purpose_and_every_number_count() -> None:
    seeds = {
        derive_seed(seed, purpose, client, round_number)
        for seed in range(4)
        for purpose in ("shuffle", "noise")
        for client in range(12)
        for round_number in range(12)
    }
    assert len(seeds) == 4 * 2 * 12 * 12


def test_generators_start_from_the_seed_and_share_nothing() -> None:
    first, second = torch_generator(0, "noise", 1), torch_generator(0, "noise", 1)
    drawn = torch.rand(5, generator=first)
    torch.rand(5)
    numpy_generator(0, "noise", 1).random(5)
    assert torch.equal(torch.rand(5, generator=second), drawn)
    assert np.array_equal(numpy_generator(0, "a").random(5), numpy_generator(0, "a").random(5))
    assert not np.array_equal(numpy_generator(0, "a").random(5), numpy_generator(0, "b").random(5))
