"""Two rounds of many clients in a process of its own: prints the peak of its memory in bytes.

python many_clients.py CLIP_FOLDER CLIENTS
"""

from __future__ import annotations

import resource
import sys

import numpy as np
import torch

from feddtl.backbones.clip import load_clip
from feddtl.config import DataConfig, Experiment
from feddtl.evaluate import EvaluationSets, TestImages
from feddtl.methods.catalog import build_method
from feddtl.methods.task import Task
from feddtl.models.activations import Activations
from feddtl.runtimes.runtime import Progress, Runtime
from feddtl.training.client_data import ClientData

IMAGES, CHOSEN = 4000, 10


def main(clip_folder: str, clients: int) -> None:
    """Train ten clients of this many a round on the same images."""
    generator = torch.Generator().manual_seed(0)
    names = ("cat", "dog", "bird", "fish")
    experiment = Experiment(rounds=2, participation=CHOSEN / clients, data=DataConfig(clients=clients))
    method = build_method(Task(load_clip(clip_folder), names, "a photo of a {class}.", 0), experiment)
    activations = Activations.of(torch.randn(IMAGES, 5, 32, generator=generator))
    labels = torch.randint(4, (IMAGES,), generator=generator)
    shares = [torch.from_numpy(share) for share in np.array_split(np.arange(IMAGES), clients)]
    parties = [ClientData(k, activations.select(share), labels[share]) for k, share in enumerate(shares)]
    base = TestImages(activations, labels, torch.zeros_like(labels), names)
    sets = EvaluationSets(base, base, tuple(shares), ("all",))
    progress = Runtime(method, parties, sets, experiment).run(Progress(method.init_server()))
    assert all(len(record.clients) == CHOSEN for record in progress.records)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
