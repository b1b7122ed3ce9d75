"""Images that are held back: whose, how many, and what is measured on them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from feddtl.errors import DataError
from feddtl.methods.catalog import build_method
from feddtl.models.activations import Activations
from feddtl.system.validation import Validation, split_off_validation
from feddtl.training.client_data import ClientData


def client(images, views=1, number=0):
    """A client whose activations are the numbers of its rows, and labels those of its images."""
    rows = torch.arange(images * views, dtype=torch.float32)[:, None, None]
    return ClientData(number, Activations.of(rows), torch.arange(images), views)


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(1, 3), st.integers(0, 50))
def test_every_image_is_on_one_side_with_all_its_views(images, share, views, seed):
    [train], [held] = split_off_validation([client(images, views)], share, seed)
    assert len(held) == min(images - 1, max(1, round(share * images)))
    assert sorted([*train.labels.tolist(), *held.labels.tolist()]) == list(range(images))
    for part in (train, held):
        expected = [label * views + view for label in part.labels.tolist() for view in range(views)]
        assert part.activations.all().flatten().tolist() == expected
        assert part.views == views


def test_the_choice_is_of_the_seed_and_the_client():
    held = [
        split_off_validation([client(40, number=n)], 0.2, seed)[1][0].labels.tolist()
        for n, seed in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert held[0] == held[1]
    assert len({tuple(labels) for labels in held}) == 3


def test_a_client_with_one_image_is_refused():
    with pytest.raises(DataError, match="Client 4 has 1 training image") as caught:
        split_off_validation([client(1, number=4)], 0.1, 0)
    assert "system.selection = 'uniform'" in caught.value.hint


def test_a_visit_is_measured_on_the_client_s_own_images(federation, make_experiment, randomised):
    """Accuracy and cross-entropy of the received and of the own model, against plain formulas on the first view."""
    experiment = make_experiment()
    method = build_method(federation.task, experiment)
    state = randomised(method.init_server(), 1)
    _, held = split_off_validation(federation.clients(method), 0.5, 0)
    doubled = replace(held[2], views=2, labels=held[2].labels[:1])  # one image in two views: only the first counts
    clip = federation.task.clip
    validation = Validation((held[0], held[1], doubled), federation.task.class_names, clip.logit_scale)
    update = method.client_update(method.broadcast(state), federation.clients(method)[2], {})
    models = {0: method.classifier(state), 2: method.classifier(state, update)}
    visits = validation.visits(method.classifier(state), models)
    assert sorted(visits) == [0, 2]
    for number, labels, rows in (
        (0, held[0].labels, held[0].activations.all()),
        (2, doubled.labels, held[2].activations.all()[:1]),
    ):
        for classifier, accuracy, loss in (
            (method.classifier(state), visits[number].received_accuracy, visits[number].received_loss),
            (models[number], visits[number].accuracy, visits[number].loss),
        ):
            text = classifier.text_embeddings(federation.task.class_names)
            logits = clip.logit_scale * classifier.image_features(rows) @ text.T
            assert accuracy == pytest.approx(float((logits.argmax(dim=-1) == labels).float().mean()))
            assert loss == pytest.approx(float(cross_entropy(logits, labels)), rel=1e-5)
        assert visits[number].images == len(labels)
    assert visits[0].loss == visits[0].received_loss
    assert visits[2].loss != visits[2].received_loss
