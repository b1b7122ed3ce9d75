"""What the tests of the compared methods have in common: a federation in float64, and both sides of a comparison."""

from __future__ import annotations

from dataclasses import replace

import torch
from slow_methods import slow_sgd_round

from feddtl.backbones.clip import load_clip
from feddtl.messages import Payload
from feddtl.methods.catalog import build_method
from feddtl.tensor_groups import add_prefix

# Byte-level tokens, so the names are of 3, 9 and 19; one has an underscore.
NAMES = ("cat", "red_panda", "great crested grebe", "x")
PERSONAL_METHODS = ("fedpgp", "fedmgp", "pfedmma")
COMPARED = ("promptfl", "fedmaple", "fedpgp", "fedmgp", "pfedmma", "fedclip")


def in_float64(federation, folder):
    """The federation on a model in float64, where rounding cannot hide a mistake."""
    clip = load_clip(str(folder))
    clip.model.double()
    return replace(federation, task=replace(federation.task, clip=clip))


def moved(tensors, seed=0, size=0.1):
    """Float64 tensors away from their initial values, so that no part of a formula is zero or one; integers stay."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor.double() + size * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in tensors.items()
    }


def all_tensors(method, client=0):
    """Shared and personal tensors, moved."""
    return moved({**method.initial_shared(), **method.initial_personal(client)})


def assert_same_features(federation, method, slow, tensors):
    """Both towers from pixels and names, by both routes."""
    data = federation.clients(method, torch.float64)[0]
    ours = method.image_features(tensors, data.activations.all())
    theirs = slow.image_features(tensors, federation.pixels(0))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    ours, theirs = method.text_features(tensors, NAMES), slow.text_features(tensors, NAMES)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def assert_same_round(federation, experiment, slow, client=1, tolerance=1e-9):
    """A client's update in round 3, shared and personal, against the plain loop; every tensor must have moved."""
    method = build_method(federation.task, experiment)
    received, kept = moved(method.initial_shared()), moved(method.initial_personal(client), seed=1)
    data = federation.clients(method, torch.float64)[client]
    update = method.client_update(Payload(3, add_prefix("shared", received)), data, kept)
    expected, loss = slow_sgd_round(
        slow,
        {**received, **kept},
        federation.pixels(client),
        data.labels.tolist(),
        federation.task.class_names,
        experiment.local,
        federation.task.seed,
        client,
        3,
    )
    assert update.weights.keys() == received.keys()
    assert update.personal.keys() == kept.keys()
    for name, tensor in {**update.weights, **update.personal}.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
        assert (tensor - {**received, **kept}[name]).abs().max() > 1e3 * tolerance, name
    assert abs(update.metrics["loss"] - loss) < 1e-6  # metrics are float32 sums
    return update
