"""A transform that adds noise to the aggregate: fresh noise in each aggregation, the same in a resumed run."""

from __future__ import annotations

import pytest
import torch

from feddtl.config import SystemConfig
from feddtl.methods.catalog import build_method
from feddtl.runtimes.runtime import Progress, Runtime
from feddtl.transforms.base import Aggregation, Transform
from feddtl.transforms.catalog import TRANSFORMS

SEEN: list[Aggregation] = []


class Noise(Transform):
    """Adds Gaussian noise to the aggregate."""

    def after_aggregation(self, aggregate, aggregation):
        SEEN.append(aggregation)
        generator = aggregation.generator("noise")
        return {
            name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator) for name, tensor in aggregate.items()
        }


@pytest.mark.parametrize(("mode", "clients"), [("sync", 3), ("async", 1)])
def test_noise_is_fresh_each_time_and_the_same_when_resumed(federation, make_experiment, monkeypatch, mode, clients):
    monkeypatch.setitem(TRANSFORMS, "noise", f"{__name__}:Noise")
    SEEN.clear()
    settings = {"system": SystemConfig(mode=mode), "method": "fedlora"}
    noisy = make_experiment(uplink={"transforms": "noise"}, **settings)

    def run(experiment, start=None, saved=None):
        method = build_method(federation.task, experiment)
        runtime = Runtime(method, federation.clients(method), federation.sets(method), experiment)
        return runtime.run(start or Progress(method.init_server()), ([] if saved is None else saved).append)

    saved: list[Progress] = []
    whole = run(noisy, saved=saved)
    assert {aggregation.clients for aggregation in SEEN} == {clients}
    assert [aggregation.number for aggregation in SEEN] == list(range(1, len(SEEN) + 1))
    resumed = run(noisy, start=saved[1])
    plain = run(make_experiment(**settings))
    for name, tensor in whole.state.tensors.items():
        assert torch.equal(resumed.state.tensors[name], tensor)
        assert not torch.equal(plain.state.tensors[name], tensor)
