"""Zero-shot CLIP, which methods of LoRA are before their first round."""

from __future__ import annotations

import pytest
import torch

from feddtl.evaluate import predict
from feddtl.methods.catalog import METHODS, build_method
from feddtl.runtimes.server_step import server_step
from feddtl.tensor_groups import add_prefix, select_prefix


@pytest.mark.parametrize("names", [("cat", "red panda", "great crested grebe"), ("teapot", "ice_cream")])
def test_zero_shot_predictions_are_those_of_transformers(federation, make_experiment, names):
    """CLIPModel's own logits_per_image on the prompts written out by hand."""
    clip = federation.task.clip
    method = build_method(federation.task, make_experiment(method="zero-shot"))
    data = federation.clients(method)[0]
    prompts = [f"a photo of a {name.replace('_', ' ')}." for name in names]
    tokens = clip.tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = clip.model(**tokens, pixel_values=federation.pixels(0))
    classifier = method.classifier(method.init_server())
    logits = clip.logit_scale * classifier.image_features(data.activations.all()) @ classifier.text_embeddings(names).T
    torch.testing.assert_close(logits, output.logits_per_image, rtol=0, atol=2e-5)
    assert torch.equal(predict(classifier, data.activations, names), output.logits_per_image.argmax(dim=-1))


@pytest.mark.parametrize("method", METHODS)
def test_zero_shot_can_be_scored_on_the_activations_of_every_method(federation, make_experiment, method):
    """Whatever block a method starts from; its own untrained model may be another, as with random prompts."""
    names = ("teapot", *federation.task.class_names)
    method = build_method(federation.task, make_experiment(method=method))
    classifier = method.zero_shot_classifier()
    reference = build_method(federation.task, make_experiment(method="zero-shot"))
    expected = reference.classifier(reference.init_server())
    ours, theirs = (
        model.image_features(federation.clients(asked)[0].activations.all())
        for model, asked in ((classifier, method), (expected, reference))
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(classifier.text_embeddings(names), expected.text_embeddings(names), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["feddtl", "fedlora"])
def test_methods_of_lora_are_zero_shot_before_training(federation, make_experiment, method):
    """B = 0, so that the adapters add nothing."""
    names = ("teapot", *federation.task.class_names)
    method = build_method(federation.task, make_experiment(method=method))
    reference = build_method(federation.task, make_experiment(method="zero-shot"))
    untrained = method.classifier(method.init_server())
    expected = reference.classifier(reference.init_server())
    ours, theirs = (
        classifier.image_features(federation.clients(asked)[0].activations.all())
        for classifier, asked in ((untrained, method), (expected, reference))
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(untrained.text_embeddings(names), expected.text_embeddings(names), rtol=0, atol=1e-6)


def test_zero_shot_sends_and_trains_nothing(federation, make_experiment):
    method = build_method(federation.task, make_experiment(method="zero-shot"))
    state = method.init_server()
    payload = method.broadcast(state)
    update = method.client_update(payload, federation.clients(method)[0], {})
    after = server_step(method, state, [update]).state
    assert not method.trains
    assert (state.tensors, payload.tensors, update.weights, update.samples, after.tensors) == ({}, {}, {}, {}, {})
    assert (payload.round, update.num_images, after.round) == (1, 7, 1)
    assert method.adapters(state) == {}


def test_embeddings_are_unit_vectors(federation, make_experiment, randomised):
    for method in ("feddtl", "fedlora"):
        method = build_method(federation.task, make_experiment(method=method))
        classifier = method.classifier(randomised(method.init_server(), 1))
        activations = federation.clients(method)[0].activations.all()
        for vectors in (classifier.image_features(activations), classifier.text_embeddings(["a", "b b b"])):
            torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(vectors)))


def test_groups_of_names_are_put_on_and_taken_off():
    tensors = {"x": torch.tensor(1.0), "y/z": torch.tensor(2.0)}
    grouped = {**add_prefix("image", tensors), **add_prefix("image2", {"w": torch.tensor(3.0)})}
    assert set(grouped) == {"image/x", "image/y/z", "image2/w"}
    assert select_prefix(grouped, "image") == tensors
    assert select_prefix(grouped, "vis") == {}
