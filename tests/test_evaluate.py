"""Accuracies against counts by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from feddtl.evaluate import (
    EvaluationSets,
    Predictions,
    Scores,
    TestImages,
    accuracy,
    client_hits,
    correct,
    harmonic_mean,
    mean_scores,
    predict,
    predict_test_images,
    score_client,
    score_global,
    score_shares,
    scores_of,
    share_hits,
)
from feddtl.methods.catalog import build_method
from feddtl.models.activations import Activations

VECTORS = {"cat": (1.0, 0.0, 0.0), "dog": (0.0, 1.0, 0.0), "owl": (0.0, 0.0, 1.0)}


class Lookup:
    """Images are their own class token; `shift` turns every prediction to another class."""

    images_per_pass = 4

    def __init__(self, shift=0):
        self.shift = shift

    def image_features(self, activations):
        return activations[:, 0].roll(self.shift, dims=-1)

    def text_embeddings(self, class_names):
        return torch.tensor([VECTORS[name] for name in class_names])


def images(shown, labels, names, domains=None):
    """Images that show classes, with labels that may disagree."""
    tokens = torch.tensor([VECTORS[name] for name in shown]).view(-1, 1, 3)
    noise = torch.full((len(shown), 2, 3), 7.0)
    domains = torch.tensor(domains or [0] * len(shown))
    return TestImages(
        Activations.of(torch.cat([tokens, noise], dim=1)), torch.tensor(labels, dtype=torch.long), domains, names
    )


def make_sets(shares=((0, 1, 2, 3),), domain_names=("all",)):
    """Base: four images, three right. Novel: two images of one class, one right."""
    base = images(["cat", "cat", "dog", "dog"], [0, 0, 1, 0], ("cat", "dog"), [0, 1, 1, 1])
    novel = images(["owl", "dog"], [0, 0], ("owl", "dog"), [0, 1])
    return EvaluationSets(base, novel, tuple(torch.tensor(share, dtype=torch.long) for share in shares), domain_names)


def empty_columns():
    """Labels and domains of no image."""
    return torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)


def test_predictions_are_positions_in_the_given_list():
    shown = images(["cat", "dog", "owl"], [0, 0, 0], ()).activations
    assert predict(Lookup(), shown, ("owl", "cat", "dog")).tolist() == [1, 2, 0]
    assert predict(Lookup(), shown.select(torch.arange(2)), ("dog", "cat")).tolist() == [1, 0]


def test_predictions_do_not_depend_on_the_batch():
    """More images than one batch takes, with a smaller last batch."""
    count = 3 * Lookup.images_per_pass + 2
    labels = torch.randint(3, (count,), generator=torch.Generator().manual_seed(0))
    activations = Activations.of(torch.eye(3)[labels][:, None])
    assert torch.equal(predict(Lookup(), activations, tuple(VECTORS)), labels)


@pytest.mark.parametrize("shape", [(0, 0, 0), (0, 5, 32)])
def test_no_images_give_no_predictions(federation, make_experiment, shape):
    """A domain without novel test images: (0, 0, 0) is what encoding an empty table gives."""
    method = build_method(federation.task, make_experiment())
    classifier = method.classifier(method.init_server())
    assert predict(classifier, Activations.of(torch.empty(shape)), ("cat",)).tolist() == []


def test_accuracy_by_hand():
    assert accuracy(torch.tensor([True, False, True, True])) == 75.0
    assert math.isnan(accuracy(torch.tensor([], dtype=torch.bool)))


def test_correct_compares_with_the_labels():
    assert correct(Lookup(), make_sets().base).tolist() == [True, True, True, False]


def test_global_scores_by_hand():
    """3 of 4 base, 1 of 2 novel: HM = 2·75·50/125 = 60."""
    scores = score_global(Lookup(), make_sets(), local=12.5)
    assert (scores.local, scores.base, scores.novel) == (12.5, 75.0, 50.0)
    assert scores.harmonic_mean == 60.0
    assert scores.domains == {}
    assert scores.as_dict() == {"local": 12.5, "base": 75.0, "novel": 50.0, "harmonic_mean": 60.0}


def test_scores_by_domain():
    """Domain 'real': base image 0 right, novel image 0 right. 'sketch': base 2 of 3, novel 0 of 1. 'clip': none."""
    scores = score_global(Lookup(), make_sets(domain_names=("real", "sketch", "clip")), local=0.0)
    assert list(scores.domains) == ["real", "sketch", "clip"]
    assert scores.domains["real"] == (100.0, 100.0)
    assert scores.domains["sketch"] == (pytest.approx(200 / 3), 0.0)
    assert all(map(math.isnan, scores.domains["clip"]))


def test_hits_on_shares_are_each_clients_model_on_its_own_share():
    """Client 0 has images 0 and 1, client 1 none, client 2 images 1, 2 and 3; client 2's model confuses all."""
    sets = make_sets(shares=((0, 1), (), (1, 2, 3)))

    def on_shares(models):
        return {client: hits.tolist() for client, hits in share_hits(models, sets).items()}

    assert on_shares({0: Lookup(), 1: Lookup(), 2: Lookup()}) == {0: [True, True], 2: [True, True, False]}
    # Shifted, a cat is taken for a dog, and a dog (now an owl) for the first class: image 3's label is 0.
    assert on_shares({2: Lookup(shift=1), 0: Lookup()}) == {0: [True, True], 2: [False, False, True]}


def test_one_pass_over_all_images_gives_all_scores_of_a_client():
    """Client 2 has images 1, 2 and 3, of which 1 and 2 are right; base and novel as in the scores by hand."""
    sets = make_sets(shares=((0, 1), (), (1, 2, 3)))
    predictions = predict_test_images(Lookup(), sets)
    scores = score_client(predictions, sets, 2)
    assert (scores.local, scores.base, scores.novel) == (pytest.approx(200 / 3), 75.0, 50.0)
    assert math.isnan(score_client(predictions, sets, 1).local)


def test_clients_that_did_not_take_part_are_not_scored():
    sets = make_sets(shares=((0, 1), (2, 3), (3,)))
    assert {client: hits.tolist() for client, hits in share_hits({1: Lookup()}, sets).items()} == {1: [True, False]}


def test_hits_of_clients_by_image():
    """The first model is right on images 0, 1, 2 and 4 of six, the shifted one on 3, 4 and 5; nobody owns image 2."""
    sets = make_sets(shares=((0, 1), (3,), (2,)))
    models = {0: Lookup(), 1: Lookup(shift=1)}
    everywhere = {client: predict_test_images(model, sets) for client, model in models.items()}
    found = client_hits(share_hits(models, sets), everywhere, sets)
    assert found.local.tolist() == [1, 1, -1, 1, -1, -1]
    assert found.right.tolist() == [1, 1, 1, 1, 2, 1]
    assert found.scored.tolist() == [2] * 6
    shares_alone = client_hits(share_hits(models, sets), {}, sets)
    assert shares_alone.local.tolist() == found.local.tolist()
    assert shares_alone.scored.tolist() == [0] * 6


def test_predictions_among_a_half_and_among_all():
    """Names cat, dog (base), owl, dog (novel). Each image shows its class; among all, the first 'dog' wins the tie."""
    predictions = predict_test_images(Lookup(), make_sets())
    assert predictions.among_half.tolist() == [0, 0, 1, 1, 2, 3]
    assert predictions.among_all.tolist() == [0, 0, 1, 1, 2, 1]


def test_scores_come_from_the_predictions():
    """By hand: labels 0, 0, 1, 0 and 2, 2; predictions 0, 1, 1, 0 and 2, 2 hit 3 of 4 and 2 of 2."""
    sets = make_sets(shares=((0, 1), (), (2, 3)))
    predictions = Predictions(torch.tensor([0, 1, 1, 0, 2, 2]), torch.zeros(6, dtype=torch.long))
    scores = scores_of(predictions, sets, local=5.0)
    assert (scores.local, scores.base, scores.novel) == (5.0, 75.0, 100.0)
    assert score_shares(predictions, sets) == {0: 50.0, 2: 100.0}


def test_labels_and_owners_of_all_test_images():
    sets = make_sets(shares=((3, 0), (), (2,)))
    assert sets.labels.tolist() == [0, 0, 1, 0, 2, 2]
    assert sets.domains.tolist() == [0, 1, 1, 1, 0, 1]
    assert sets.owners.tolist() == [0, -1, 2, 0, -1, -1]


def test_predictions_without_novel_classes():
    base = make_sets().base
    sets = EvaluationSets(base, TestImages(Activations.of(torch.empty(0, 0)), *empty_columns(), ()), (), ("all",))
    predictions = predict_test_images(Lookup(), sets)
    assert predictions.among_half.tolist() == predictions.among_all.tolist() == [0, 0, 1, 1]
    assert math.isnan(scores_of(predictions, sets, 0.0).novel)


def test_selection_keeps_classes_and_picks_rows():
    chosen = make_sets().base.select(torch.tensor([3, 1]))
    assert chosen.labels.tolist() == [0, 0]
    assert chosen.domains.tolist() == [1, 1]
    assert chosen.class_names == ("cat", "dog")
    assert chosen.activations.all()[:, 0].tolist() == [list(VECTORS["dog"]), list(VECTORS["cat"])]


def test_mean_over_models_is_of_base_and_novel():
    """HM of the means: base (80 + 60)/2 = 70, novel (20 + 40)/2 = 30, HM = 2·70·30/100 = 42."""
    scores = mean_scores([Scores(1.0, 80.0, 20.0), Scores(2.0, 60.0, 40.0)])
    assert (scores.base, scores.novel) == (70.0, 30.0)
    assert scores.harmonic_mean == pytest.approx(42.0)
    assert math.isnan(scores.local)


def test_harmonic_mean_by_hand():
    assert harmonic_mean(90.0, 60.0) == 72.0
    assert harmonic_mean(50.0, 0.0) == 0.0
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert math.isnan(harmonic_mean(50.0, float("nan")))


@given(base=st.floats(0.1, 100), novel=st.floats(0.1, 100))
def test_harmonic_mean_lies_between_and_below_the_mean(base, novel):
    """1/HM is the mean of 1/base and 1/novel."""
    value = harmonic_mean(base, novel)
    assert 1 / value == pytest.approx((1 / base + 1 / novel) / 2)
    assert min(base, novel) - 1e-9 <= value <= (base + novel) / 2 + 1e-9
