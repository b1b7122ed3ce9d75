"""Which row leads, which rows have intervals, and what a table says about them."""

from __future__ import annotations

from results.made_hits import model_hits, run_hits_of

from feddtl.results.hits import ModelHits
from feddtl.results.paired import Row, compared, interval_notes


def row(label: str, right: int, *, count: int = 100, seeds: int = 2, competes: bool = True, images: str = "x") -> Row:
    """Base images of which the first are right, the same for every seed."""
    hits = model_hits([1] * right + [0] * (count - right), images=images)
    by_seed = dict.fromkeys(range(seeds), hits)
    return Row(label, {"base": dict.fromkeys(by_seed, 100 * right / count)}, by_seed, competes)


def without_hits(one: Row) -> Row:
    return Row(one.label, one.scores, {}, one.competes)


def leading(*rows: Row) -> list[str]:
    found = compared(rows, "data")
    return [one.label for one, own in zip(rows, found, strict=True) if "base" in own.leads]


def test_the_best_row_leads_if_it_is_distinguishable_from_every_other_one() -> None:
    """20 more of 100 images are right: 8 of 10000 resamples would have to miss them all."""
    assert leading(row("a", 60), row("b", 40)) == ["a"]
    assert leading(row("a", 60), row("b", 40), row("c", 30)) == ["a"]


def test_nothing_leads_where_an_interval_contains_zero() -> None:
    """One more image is right: a third of the resamples does not have it."""
    assert leading(row("a", 60), row("b", 59), row("c", 30)) == []
    assert leading(row("a", 60), row("b", 60)) == []


def test_a_row_alone_does_not_lead() -> None:
    assert leading(row("a", 60)) == []
    assert leading(row("a", 60), row("unfinished", 70, competes=False)) == []


def test_rows_that_do_not_compete_need_not_be_beaten() -> None:
    assert leading(row("a", 60), row("b", 40), row("unfinished", 70, competes=False)) == ["a"]


def test_nothing_leads_over_a_row_whose_hits_are_not_known() -> None:
    assert leading(row("a", 60), without_hits(row("b", 40))) == []
    assert leading(without_hits(row("a", 60)), without_hits(row("b", 40))) == []


def test_rows_on_other_images_are_not_compared() -> None:
    rows = [row("a", 60), row("b", 40), row("c", 30, images="others", count=90)]
    found = compared(rows, "data")
    assert [bool(own.intervals) for own in found] == [True, True, False]
    assert leading(*rows) == []


def test_held_back_images_may_differ_between_seeds() -> None:
    """Rows are paired seed by seed; a row on other images of one seed is not compared."""

    def by_seed(right: int, *images: str) -> Row:
        own = [row("", right, images=name) for name in images]
        hits = {seed: one.hits[0] for seed, one in enumerate(own)}
        return Row(f"{right}", {"base": dict.fromkeys(hits, float(right))}, hits)

    rows = [by_seed(60, "x", "y"), by_seed(40, "x", "y"), by_seed(30, "x", "z")]
    assert [bool(own.intervals) for own in compared(rows, "data")] == [True, True, False]
    assert leading(*rows[:2]) == ["60"]
    other_number = Row("a", rows[0].scores, {**rows[0].hits, 1: row("", 60, count=90, images="y").hits[0]})
    assert not compared([other_number], "data")[0].intervals


def test_no_interval_for_seeds_that_the_scores_do_not_have() -> None:
    some = row("a", 60, seeds=3)
    part: dict[int, ModelHits] = {seed: hits for seed, hits in some.hits.items() if seed}
    [found] = compared([Row("a", some.scores, part)], "data")
    assert found.intervals == {}


def test_made_hits_have_the_accuracy_that_they_were_made_for() -> None:
    hits = run_hits_of(65).after_training
    assert (hits.base.mean(), hits.novel.mean()) == (0.65, 0.65)


def test_notes_name_the_method_the_seeds_and_what_is_missing() -> None:
    notes = " ".join(interval_notes([0, 1, 2], {"a": True, "b": False}))
    assert "hierarchical bootstrap over test images and seeds, 2,000 resamples" in notes
    assert "seeds 0, 1 and 2" in notes
    assert "3 seeds say little about others: take 5" in notes
    assert "not recorded for b" in notes
    assert "exclude zero" in notes


def test_notes_of_five_seeds_ask_for_no_more() -> None:
    assert not any("say little" in note for note in interval_notes([0, 1, 2, 3, 4], {"a": True}))


def test_notes_of_one_seed_say_that_others_are_not_covered() -> None:
    [first, *rest] = interval_notes([4], {"a": True})
    assert "seed 4" in first
    assert "test images alone" in first
    assert "does not cover other seeds" in first
    assert not any("say little" in note for note in rest)


def test_notes_without_hits_speak_of_deviations_and_of_nothing_in_bold() -> None:
    notes = interval_notes([0, 1], {"a": False})
    assert notes[0] == "After the last round, mean ± standard deviation over seeds 0 and 1."
    assert "nothing in bold" in notes[1]
    assert interval_notes([0], {"a": False})[0] == "After the last round, seed 0."
    assert interval_notes([], {}) == []
