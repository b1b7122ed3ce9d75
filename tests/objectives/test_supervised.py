"""CLIP's logits and cross-entropy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from feddtl.objectives.supervised import clip_logits, supervised_loss


def test_logits_by_hand():
    """z = (3, 4) becomes (0.6, 0.8); against (1, 0) and (0, -1) at s = 10: 6 and -8."""
    logits = clip_logits(torch.tensor([3.0, 4.0]), torch.tensor([[1.0, 0.0], [0.0, -1.0]]), 10.0)
    torch.testing.assert_close(logits, torch.tensor([6.0, -8.0]))


def test_logits_keep_leading_dimensions_and_ignore_the_length_of_features():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 5, generator=generator)
    text = torch.nn.functional.normalize(torch.randn(4, 5, generator=generator), dim=-1)
    logits = clip_logits(features, text, 20.0)
    assert logits.shape == (2, 3, 4)
    torch.testing.assert_close(clip_logits(7 * features, text, 20.0), logits)
    assert logits.abs().max() <= 20.0


@given(images=st.integers(1, 5), classes=st.integers(2, 5), seed=st.integers(0, 10**6))
def test_loss_and_gradient_equal_a_loop(images, classes, seed):
    """-log softmax at the label, mean over images. By hand dL/dT_c = s/B · Σ_i (π_ic - 1[y_i = c]) ẑ_i."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, 4, generator=generator, dtype=torch.float64)
    text = torch.randn(classes, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(classes, (images,), generator=generator)
    scale = 3.0
    loss = supervised_loss(features, text, labels, scale)
    (gradient,) = torch.autograd.grad(loss, text)

    total, expected = 0.0, [[0.0] * 4 for _ in range(classes)]
    for vector, label in zip(features.tolist(), labels.tolist(), strict=True):
        norm = math.sqrt(sum(v * v for v in vector))
        unit = [v / norm for v in vector]
        exps = [math.exp(scale * sum(u * t for u, t in zip(unit, row, strict=True))) for row in text.tolist()]
        total -= math.log(exps[label] / sum(exps)) / images
        for c in range(classes):
            for k in range(4):
                expected[c][k] += scale / images * (exps[c] / sum(exps) - (c == label)) * unit[k]
    assert loss.item() == pytest.approx(total, rel=1e-9)
    torch.testing.assert_close(gradient, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
