"""Zero-shot CLIP (Radford et al. 2021): nothing is trained, nothing is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from feddtl.messages import Payload, Update
from feddtl.methods.base import Method
from feddtl.models.lora import Tensors
from feddtl.training.client_data import ClientData
from feddtl.training.local import EpochObserver, ignore_epochs


class ZeroShot(Method):
    """The pre-trained model, as the lowest row of every table."""

    trains: ClassVar[bool] = False

    def initial_shared(self) -> Tensors:
        """None."""
        return {}

    def client_updates(
        self,
        payload: Payload,
        clients: Sequence[ClientData],
        personal: Sequence[Tensors],
        observer: EpochObserver = ignore_epochs,
    ) -> list[Update]:
        """Empty ones."""
        return [Update(data.client, len(data), {}) for data in clients]
