"""The one training loop, on losses whose course can be computed by hand."""

from __future__ import annotations

from itertools import chain

import pytest
import torch

from feddtl.config import Experiment, LocalConfig, RlConfig
from feddtl.errors import ConfigError
from feddtl.training.local import Learner, detached, epoch_rate, local_optimizer, train, trainable_copy


def mean_step(parameters, loss_function, seen=lambda rows: None):
    """A step of one learner whose batch has this loss and these metrics."""

    def step(batches):
        rows = batches[0].indices
        loss, metrics = loss_function(parameters, rows)
        loss.backward()
        return {name: value.detach()[None] * len(rows) for name, value in {**metrics, "loss": loss}.items()}

    return step


def run(loss_function, *, start=0.0, samples=4, epochs=1, batch=2, rate=0.1, seed=0, **options):
    """Plain gradient descent on one scalar `w`; returns it with the metrics."""
    parameters = {"w": torch.tensor(start, requires_grad=True)}
    learner = Learner(parameters, range(samples), torch.Generator().manual_seed(seed))
    [metrics] = train(
        [learner],
        mean_step(parameters, loss_function),
        epochs=epochs,
        batch_size=batch,
        optimizer=torch.optim.SGD(parameters.values(), lr=rate),
        **options,
    )
    return parameters["w"].item(), metrics


def test_two_steps_by_hand():
    """L = (w - 3)², rate 0.1: gradients -6 and -4.8, w = 0.6 and 1.08; losses 9 and 5.76, norms 6 and 4.8."""
    w, metrics = run(lambda p, batch: ((p["w"] - 3) ** 2, {}))
    assert w == pytest.approx(1.08)
    assert metrics["loss"] == pytest.approx((9 + 5.76) / 2)
    assert metrics["gradient_norm"] == pytest.approx((6 + 4.8) / 2)


def test_metrics_are_means_over_samples_not_over_batches():
    """Five samples in batches of 2, 2, 1 with a metric of the batch size: (2·2 + 2·2 + 1·1)/5 = 1.8."""
    _, metrics = run(lambda p, batch: (p["w"], {"size": torch.tensor(float(len(batch)))}), samples=5, epochs=3)
    assert metrics["size"] == pytest.approx(1.8)


def test_every_epoch_sees_every_sample_once_in_a_seeded_order():
    def orders(seed):
        seen = []

        def loss_function(parameters, batch):
            seen.append(batch.tolist())
            return parameters["w"], {}

        run(loss_function, samples=7, epochs=2, batch=3, seed=seed)
        return seen

    first = orders(1)
    assert [len(batch) for batch in first] == [3, 3, 1, 3, 3, 1]
    epochs = [list(chain(*first[:3])), list(chain(*first[3:]))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 2
    assert epochs[0] != epochs[1]
    assert orders(1) == first
    assert orders(2) != first


def test_order_does_not_depend_on_the_global_generator():
    seen = []
    for state in (0, 1):
        torch.manual_seed(state)
        run(lambda p, batch: (seen.append(batch.tolist()) or p["w"], {}), samples=6, batch=6)
    assert seen[0] == seen[1]


def test_hook_runs_before_and_observer_after_each_epoch():
    events = []
    run(
        lambda p, batch: (events.append("step") or p["w"], {}),
        samples=2,
        epochs=2,
        batch=2,
        before_epoch=lambda learner, epoch: events.append(("before", epoch)),
        observer=lambda learner, epoch, epochs: events.append(("after", epoch, epochs)),
    )
    assert events == [("before", 0), "step", ("after", 1, 2), ("before", 1), "step", ("after", 2, 2)]


def test_gradients_of_one_step_do_not_reach_the_next():
    """A constant slope of 1: three steps of 0.1. Accumulated gradients would give 0.6."""
    w, _ = run(lambda p, batch: (p["w"], {}), samples=3, batch=1)
    assert w == pytest.approx(-0.3)


def test_trainable_copy_and_detached_share_no_memory_with_their_source():
    source = {"w": torch.ones(3)}
    copied = trainable_copy(source, torch.device("cpu"))
    sent = detached(copied)
    with torch.no_grad():
        copied["w"].fill_(5.0)
    assert copied["w"].requires_grad
    assert copied["w"].is_leaf
    assert source["w"].tolist() == [1.0, 1.0, 1.0] == sent["w"].tolist()
    assert not sent["w"].requires_grad


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0), (5, 0), (5, 1), (10, 3)])
def test_cosine_rates_are_those_of_torchs_schedulers(epochs, warmup):
    """A constant warm-up, then torch's cosine with all local epochs as its length."""
    config = LocalConfig(epochs=epochs, learning_rate=0.3, rate_schedule="cosine", warmup_epochs=warmup)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    expected = [1e-5] * warmup
    for _ in range(epochs - warmup):
        expected += cosine.get_last_lr()
        optimizer.step()
        cosine.step()
    assert [epoch_rate(config, epoch, epochs) for epoch in range(epochs)] == pytest.approx(expected, rel=1e-12)


def test_constant_rates_by_hand():
    config = LocalConfig(epochs=4, learning_rate=0.3, warmup_epochs=2, warmup_rate=0.01)
    assert [epoch_rate(config, epoch, 4) for epoch in range(4)] == [0.01, 0.01, 0.3, 0.3]


def test_a_round_of_warmup_alone_is_refused():
    with pytest.raises(ConfigError, match=r"warmup_epochs = 2 leaves no epoch .* local\.epochs = 2") as caught:
        LocalConfig(epochs=2, warmup_epochs=2)
    assert "1 or less" in caught.value.hint
    schedule = {"rounds": 4, "rl": RlConfig(epochs=2), "local": LocalConfig(epochs=5, warmup_epochs=2)}
    with pytest.raises(ConfigError, match=r"rl\.epochs = 2"):
        Experiment(method="feddtl", **schedule)
    assert Experiment(method="promptfl", **schedule).local.warmup_epochs == 2


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, 0.1, fused=True)),
        (
            {
                "optimizer": "adam",
                **{"adam_beta1": 0.8, "adam_beta2": 0.98, "adam_epsilon": 1e-6, "adam_weight_decay": 0.2},
            },
            lambda p: torch.optim.Adam(p, 0.1, betas=(0.8, 0.98), eps=1e-6, weight_decay=0.2, fused=True),
        ),
        ({"optimizer": "sgd"}, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=5e-4)),
    ],
)
def test_the_settings_reach_the_optimizer(settings, theirs):
    ours, other = (torch.tensor([1.0, -2.0], requires_grad=True) for _ in range(2))
    learner = Learner({"w": ours}, range(1), torch.Generator())
    optimizers = local_optimizer([learner], LocalConfig(learning_rate=0.1, **settings), "sgd"), theirs([other])
    for _ in range(3):
        for tensor, optimizer in zip((ours, other), optimizers, strict=True):
            optimizer.zero_grad()
            (tensor**3).sum().backward()
            optimizer.step()
    assert torch.equal(ours, other)
