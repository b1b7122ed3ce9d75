"""Adam and SGD: equal to torch.optim in every bit, and without torch's compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from feddtl.training.optimizers import SGD, Adam

PAIRS = {
    "adam": (lambda p: Adam(p, 0.02), lambda p: torch.optim.Adam(p, 0.02, fused=True)),
    "adam of FedCLIP": (
        lambda p: Adam(p, 0.02, betas=(0.9, 0.98), epsilon=1e-6, weight_decay=0.2),
        lambda p: torch.optim.Adam(p, 0.02, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, fused=True),
    ),
    "sgd": (lambda p: SGD(p, 0.02), lambda p: torch.optim.SGD(p, 0.02)),
    "momentum": (
        lambda p: SGD(p, 0.02, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, weight_decay=0.01),
    ),
}


def trajectory(make):
    """Two tensors after each of six steps; the second has no gradient in the first and the fourth of them."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(shape, generator=generator).requires_grad_() for shape in ((5, 3), (7,)))
    optimizer, seen = make([first, second]), []
    for step in range(6):
        optimizer.zero_grad()
        loss = (first**2).sum() + (0 if step in (0, 3) else (second**3).sum())
        loss.backward()
        optimizer.step()
        seen.append((first.detach().clone(), second.detach().clone()))
    return seen


@pytest.mark.parametrize("name", PAIRS)
def test_equal_to_torch_in_every_bit(name):
    ours, theirs = map(trajectory, PAIRS[name])
    for ours_then, theirs_then in zip(ours, theirs, strict=True):
        assert all(map(torch.equal, ours_then, theirs_then))
    assert not torch.equal(ours[0][0], ours[1][0])


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_each_parameter_has_a_rate_of_its_own(kind):
    """As two groups of torch's optimiser; the rate of the second changes after three steps."""
    pair = {"adam": (Adam, torch.optim.Adam), "sgd": (SGD, torch.optim.SGD)}[kind]
    courses = []
    for ours, make in zip((True, False), pair, strict=True):
        first, second = torch.ones(3, requires_grad=True), torch.full((2,), 2.0, requires_grad=True)
        if ours:
            optimizer = make([first, second], 0.05)
            optimizer.set_rate([second], 0.3)
        else:
            groups = [{"params": [first]}, {"params": [second], "lr": 0.3}]
            optimizer = make(groups, lr=0.05, **({"fused": True} if kind == "adam" else {}))
        for step in range(6):
            if step == 3:
                optimizer.set_rate([second], 0.01) if ours else optimizer.param_groups[1].update(lr=0.01)
            optimizer.zero_grad()
            ((first**3).sum() + (second**2).sum()).backward()
            optimizer.step()
        courses.append((first.detach(), second.detach()))
    assert all(map(torch.equal, *courses))


def test_first_steps_by_hand():
    """With the gradient 2 of 2x: SGD moves by 0.1 · 2, then by 0.1 · (0.5 · 2 + 2); Adam's first step is its rate, as
    m / sqrt(v) of a single gradient is its sign."""
    plain, adaptive = torch.tensor([1.0], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    sgd, adam = SGD([plain], 0.1, momentum=0.5), Adam([adaptive], 0.1)
    (2 * plain + 2 * adaptive).sum().backward()
    sgd.step()
    adam.step()
    assert plain.item() == pytest.approx(0.8)
    assert adaptive.item() == pytest.approx(0.9)
    sgd.step()
    assert plain.item() == pytest.approx(0.5)


def test_forgotten_gradients_move_nothing():
    parameter = torch.ones(2, requires_grad=True)
    optimizer = Adam([parameter], 0.1)
    parameter.sum().backward()
    optimizer.zero_grad()
    optimizer.step()
    assert torch.equal(parameter, torch.ones(2))


def test_training_does_not_import_the_compiler():
    """It takes as long as torch itself."""
    code = (
        "import sys, torch\n"
        "from feddtl.training.optimizers import SGD, Adam\n"
        "for make in (SGD, Adam):\n"
        "    parameter = torch.ones(2, requires_grad=True)\n"
        "    optimizer = make([parameter], 0.1)\n"
        "    parameter.sum().backward()\n"
        "    optimizer.step()\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
