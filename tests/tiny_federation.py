"""Three small clients, their test images, and a server that knows the task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from plain_activations import frozen_activations

from feddtl.backbones.clip import Clip
from feddtl.data.table import ImageTable
from feddtl.evaluate import EvaluationSets, TestImages
from feddtl.methods.base import Method
from feddtl.methods.task import Task
from feddtl.models.activations import Activations
from feddtl.training.client_data import ClientData


@dataclass(frozen=True)
class Federation:
    """Three clients with 7, 5 and 6 images of three base classes, and test images of these and two novel ones.

    Attributes:
        task: What all parties agree on.
        tables: Training images by client.
        test_base: 12 images; the clients' shares are the first 4, none, and the last 8.
        test_novel: 6 images.
    """

    task: Task
    tables: tuple[ImageTable, ...]
    test_base: ImageTable
    test_novel: ImageTable

    def clients(self, method: Method, dtype: torch.dtype = torch.float32) -> list[ClientData]:
        """Every client's activations at the method's first changing block."""
        return [
            ClientData(client, self._encode(table, method, dtype), torch.from_numpy(table.labels))
            for client, table in enumerate(self.tables)
        ]

    def sets(self, method: Method, dtype: torch.dtype = torch.float32) -> EvaluationSets:
        """What a runtime scores."""
        shares = (torch.arange(4), torch.arange(0), torch.arange(4, 12))
        base = self._test(self.test_base, self.task.class_names, method, dtype)
        novel = self._test(self.test_novel, ("teapot", "ice cream"), method, dtype)
        return EvaluationSets(base, novel, shares, ("all",))

    def pixels(self, client: int) -> torch.Tensor:
        """(N, 3, H, W) training images of a client, as the model's own processor gives them."""
        table = self.tables[client]
        return self.task.clip.image.preprocess([table.read(index) for index in range(len(table))])

    def _encode(self, table: ImageTable, method: Method, dtype: torch.dtype) -> Activations:
        found = frozen_activations(self.task.clip.image, table, method.first_image_block, dtype=dtype)
        return Activations.of(found)

    def _test(self, table: ImageTable, names: tuple[str, ...], method: Method, dtype: torch.dtype) -> TestImages:
        activations = self._encode(table, method, dtype)
        return TestImages(activations, torch.from_numpy(table.labels), torch.from_numpy(table.domains), names)


def make_federation(clip: Clip, make_images: Callable[..., ImageTable]) -> Federation:
    """The default tiny federation."""
    labels = ([0, 0, 1, 2, 1, 0, 2], [1, 1, 2, 2, 1], [0, 2, 0, 1, 2, 0])
    return Federation(
        Task(clip, ("cat", "red panda", "great crested grebe"), "a photo of a {class}.", 3),
        tuple(make_images(owned, seed=10 + client) for client, owned in enumerate(labels)),
        make_images([0, 1, 2] * 4, seed=20),
        make_images([0, 1] * 3, seed=21),
    )
