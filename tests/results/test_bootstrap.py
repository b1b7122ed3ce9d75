"""The bootstrap against a loop over single images, the normal approximation, and how often it covers the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from results.made_hits import model_hits, random_hits

from feddtl.results import bootstrap
from feddtl.results.bootstrap import difference_interval, interval, mean_replicates, replicates
from feddtl.results.hits import ModelHits

Rows = list[dict[int, ModelHits]]


def random_rows(count: int = 2, seeds: int = 3, base: int = 17, novel: int = 11) -> Rows:
    generator = np.random.default_rng(7)
    return [{seed: random_hits(generator, base, novel) for seed in range(seeds)} for _ in range(count)]


def slow_scores(model: ModelHits, stream: str, resample: int) -> dict[str, float]:
    """One resample of one model, image by image."""
    drawn: dict[str, list[int]] = {}
    for key in ("base", "novel"):
        count = len(getattr(model, key))
        [times] = bootstrap._draws(f"{stream} {key}", count, resample, resample + 1)
        drawn[key] = [image for image in range(count) for _ in range(int(times[image]))]
        assert len(drawn[key]) == count
    base, novel = (
        100 * sum(int(getattr(model, key)[image]) for image in drawn[key]) / len(drawn[key])
        for key in ("base", "novel")
    )
    assert model.owners is not None
    assert model.local is not None
    by_client: dict[int, list[int]] = {}
    for image in drawn["base"]:
        by_client.setdefault(int(model.owners[image]), []).append(int(model.local[image]))
    local = [100 * sum(hits) / len(hits) for client, hits in by_client.items() if client >= 0]
    harmonic = 2 * base * novel / (base + novel) if base + novel else 0.0
    return {"base": base, "novel": novel, "harmonic_mean": harmonic, "local": sum(local) / len(local)}


@pytest.mark.parametrize("key", ["base", "novel", "harmonic_mean", "local"])
def test_intervals_are_those_of_a_loop(key: str) -> None:
    rows, resamples = random_rows(), 60
    fast = replicates(rows, "data", resamples)
    means: list[list[float]] = [[], []]
    for resample in range(resamples):
        [times] = bootstrap._draws("seeds", 3, resample, resample + 1)
        chosen = [seed for seed in range(3) for _ in range(int(times[seed]))]
        for row, found in zip(rows, means, strict=True):
            found.append(sum(slow_scores(row[seed], "data", resample)[key] for seed in chosen) / 3)

    def ends(values: list[float]) -> tuple[float, float]:
        """Linear between neighbours in order, at positions 0.025 · 59 and 0.975 · 59."""
        ordered = sorted(values)
        positions = [share * (resamples - 1) for share in (0.025, 0.975)]
        low, high = (ordered[int(at)] + (at - int(at)) * (ordered[int(at) + 1] - ordered[int(at)]) for at in positions)
        return low, high

    for row, found in zip(fast, means, strict=True):
        own = interval(row, key)
        assert own is not None
        assert (own.low, own.high) == pytest.approx(ends(found))
    difference = difference_interval(fast[0], fast[1], key)
    assert difference is not None
    expected = ends([one - other for one, other in zip(*means, strict=True)])
    assert (difference.low, difference.high) == pytest.approx(expected)


def test_of_one_seed_it_is_the_normal_approximation() -> None:
    """±1.96 · √(p (1 - p) / N) for one model, √2 of it for two independent ones; HM to first order."""
    generator, count = np.random.default_rng(0), 2000
    one, other = replicates([{0: random_hits(generator, count, count)} for _ in range(2)], resamples=4000)
    deviation = 100 * math.sqrt(0.7 * 0.3 / count)
    found = interval(one, "base")
    assert found is not None
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * deviation, rel=0.08)
    difference = difference_interval(one, other, "base")
    assert difference is not None
    assert (difference.high - difference.low) / 2 == pytest.approx(1.96 * deviation * math.sqrt(2), rel=0.08)
    # Where base and novel are equal, HM is their mean to first order, which deviates by 1/√2 of either.
    harmonic = interval(one, "harmonic_mean")
    assert harmonic is not None
    assert (harmonic.high - harmonic.low) / 2 == pytest.approx(1.96 * deviation / math.sqrt(2), rel=0.08)


def test_seeds_are_resampled_too() -> None:
    """Half of 16 seeds are always right and half always wrong: the mean deviates by 50 / √16 = 12.5."""
    row = {seed: model_hits([seed % 2] * 30) for seed in range(16)}
    found = interval(replicates([row], resamples=4000)[0], "base")
    assert found is not None
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * 12.5, rel=0.08)


def test_one_seed_is_never_replaced_by_another() -> None:
    [row] = replicates([{3: model_hits([1] * 5)}])
    found = interval(row, "base")
    assert found is not None
    assert (found.low, found.high) == (100, 100)


def test_identical_methods_differ_by_exactly_nothing() -> None:
    [row] = random_rows(1)
    one, other = replicates([row, dict(row)])
    for key in ("base", "novel", "harmonic_mean", "local"):
        difference = difference_interval(one, other, key)
        assert difference is not None
        assert (difference.low, difference.high) == (0, 0)
        assert not difference.excludes_zero


def test_what_two_methods_share_cancels() -> None:
    """Both are right on the same images but for one of 50: the difference is far surer than either accuracy."""
    hits = np.arange(50) % 2
    one, other = replicates([{0: model_hits(hits)}, {0: model_hits([1, *hits[1:]])}])
    own, difference = interval(one, "base"), difference_interval(other, one, "base")
    assert own is not None
    assert difference is not None
    assert own.high - own.low > 20
    assert difference.low == 0
    assert difference.high <= 8  # the image is drawn more than four times once in 270 resamples


def test_equal_input_gives_equal_numbers_whatever_else_is_in_the_table() -> None:
    rows = random_rows(3)
    alone, together = replicates(rows[:1], "data"), replicates(rows, "data")
    for key in ("base", "local"):
        assert interval(alone[0], key) == interval(together[0], key)
        assert np.array_equal(alone[0].scores[key], together[0].scores[key])
    assert not np.array_equal(alone[0].scores["base"], replicates(rows[:1], "other")[0].scores["base"])


def test_memory_does_not_change_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows()
    whole = replicates(rows, "data", 50)
    monkeypatch.setattr(bootstrap, "TOGETHER", 28 * 7)
    for one, other in zip(whole, replicates(rows, "data", 50), strict=True):
        assert all(np.array_equal(one.scores[key], other.scores[key]) for key in one.scores)


def test_only_shared_seeds_are_paired() -> None:
    row = random_rows(1)[0]
    some = {seed: row[seed] for seed in (0, 2)}
    one, other, third = replicates([row, some, {9: row[0]}])
    difference = difference_interval(one, other, "base")
    assert difference is not None
    assert (difference.low, difference.high) == (0, 0)
    assert difference_interval(one, third, "base") is None


def test_counts_of_several_models_are_their_mean() -> None:
    [row] = replicates([{0: model_hits([4, 4, 4], [1, 1], models=4)}])
    means = {key: column.mean() for key, column in row.scores.items() if key != "local"}
    assert means == pytest.approx({"base": 100, "novel": 25, "harmonic_mean": 40})


def test_no_novel_image_gives_no_novel_score() -> None:
    [row] = replicates([{0: model_hits([1, 0, 1])}])
    assert interval(row, "base") is not None
    assert interval(row, "novel") is interval(row, "harmonic_mean") is interval(row, "local") is None


def test_a_client_without_a_resampled_image_does_not_count() -> None:
    """Client 1 has one of four images, right; client 0 three, wrong: 50 if both are drawn, else 0 or 100."""
    [row] = replicates([{0: model_hits([0] * 4, owners=[0, 0, 0, 1], local=[0, 0, 0, 1])}])
    drawn = bootstrap._draws(" base", 4, 0, bootstrap.RESAMPLES)[:, 3]
    expected = np.where(drawn == 0, 0.0, np.where(drawn == 4, 100.0, 50.0))
    assert row.scores["local"][:, 0].tolist() == expected.tolist()


def test_a_mean_over_data_sets_is_taken_in_each_resample() -> None:
    first, second = (replicates(random_rows(1, seeds=seeds), name)[0] for seeds, name in ((3, "a"), (2, "b")))
    mean = mean_replicates([first, second])
    assert mean.seeds == (0, 1)
    for key in ("base", "harmonic_mean"):
        assert mean.scores[key] == pytest.approx((first.scores[key][:, :2] + second.scores[key]) / 2)
    assert mean_replicates([first, replicates([{}])[0]]).scores == {}


@pytest.mark.parametrize(("seeds", "least"), [(1, 0.9), (3, 0.9), (5, 0.9)])
@pytest.mark.slow
def test_it_covers_the_true_difference(seeds: int, least: float) -> None:
    """Images differ in difficulty, seeds in skill, and both methods share them: 19 of 20 intervals should hold 0.

    The number of simulated tables makes 0.9 six standard errors from 0.95 and better.
    """
    generator, tables, held = np.random.default_rng(3), 150, 0
    for _ in range(tables):
        difficulty = generator.normal(0, 1, 200)
        skill = generator.normal(0, 0.1 if seeds > 1 else 0, (2, seeds))
        rows = [
            {
                seed: model_hits((difficulty + skill[row, seed] + generator.normal(0, 1, 200) > -0.5).astype(int))
                for seed in range(seeds)
            }
            for row in range(2)
        ]
        one, other = replicates(rows, resamples=300)
        difference = difference_interval(one, other, "base")
        assert difference is not None
        held += not difference.excludes_zero
    assert least <= held / tables <= 1
