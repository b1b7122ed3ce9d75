"""FedLoRA: LoRA of both towers trained on the client, both averaged (ablation rows of FedDTL, §4).

With `schedule.stages = 'sft'` it is the plain baseline; with 'sft-then-rl' the row "+ two-stage". Optimiser,
learning rate, epochs and rank are FedDTL's, so that the rows differ in the ablated part only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from feddtl.algorithms.aggregate import average_lora, client_drift
from feddtl.algorithms.base import (
    Aggregate,
    Algorithm,
    Classifier,
    ClientData,
    EpochObserver,
    ExpectedUpdate,
    Payload,
    ServerState,
    Task,
    TrainedParameters,
    Update,
    count_parameters,
    ignore_epochs,
)
from feddtl.algorithms.local import detached
from feddtl.algorithms.lora_clip import LoraClip
from feddtl.algorithms.naming import select, under
from feddtl.algorithms.objective import LocalRandomness
from feddtl.algorithms.stages import fine_tune
from feddtl.config import Experiment
from feddtl.models.lora import Lora, Tensors


class FedLoRA(Algorithm):
    """Federated averaging of two-tower LoRA.

    Server state: `model/visual/…` and `model/text/…` factors, `anchor/…` the same after the last SFT round.
    """

    def __init__(self, task: Task, experiment: Experiment) -> None:
        self.task = task
        self._config = experiment
        self._model = LoraClip(task, experiment.lora)
        self.first_image_block = self._model.first_image_block
        self.clients_together = self._model.clients_together(experiment.local.batch_size)

    def init_server(self) -> ServerState:
        """Fresh LoRA in both towers."""
        factors = self._model.init_factors()
        return ServerState(0, {**under("model", factors), **under("anchor", factors)})

    def stage(self, round_number: int) -> str:
        """'sft' up to round M, then 'rl'."""
        return self._config.stage(round_number)

    def broadcast(self, state: ServerState) -> Payload:
        """LoRA of both towers; in the RL stage the SFT anchor too."""
        tensors = under("model", select(state.tensors, "model"))
        if self.stage(state.round + 1) == "rl":
            tensors |= under("anchor", select(state.tensors, "anchor"))
        return Payload(state.round + 1, tensors)

    def client_update(
        self, payload: Payload, data: ClientData, personal: Tensors, observer: EpochObserver = ignore_epochs
    ) -> Update:
        """Tune both towers on the client's images."""
        return self.client_updates(payload, [data], [personal], observer)[0]

    def client_updates(
        self,
        payload: Payload,
        clients: Sequence[ClientData],
        personal: Sequence[Tensors],
        observer: EpochObserver = ignore_epochs,
    ) -> list[Update]:
        """`client_update` of several clients, their steps computed as one."""
        policy = self._model.policy(clients, payload.round, self._encode_images, self._encode_text)
        randomness = [LocalRandomness(self.task.seed, data.client, payload.round) for data in clients]
        received, anchor = select(payload.tensors, "model"), select(payload.tensors, "anchor")
        stage = self.stage(payload.round)
        tuned = fine_tune(stage, policy, clients, received, anchor, self._config, randomness, observer)
        return [
            Update(data.client, len(data), detached(adapters), metrics=metrics)
            for data, (adapters, metrics) in zip(clients, tuned, strict=True)
        ]

    def expected_update(self, payload: Payload) -> ExpectedUpdate:
        """LoRA of both towers."""
        return ExpectedUpdate(select(payload.tensors, "model"))

    def aggregate(self, state: ServerState, updates: Sequence[Update]) -> Aggregate:
        """Average both towers' LoRA."""
        factors = average_lora(updates, self._config.lora.rank, self._config.server.aggregation)
        anchor = factors if self.stage(state.round + 1) == "sft" else select(state.tensors, "anchor")
        tensors = {**under("model", factors), **under("anchor", anchor)}
        return Aggregate(ServerState(state.round + 1, tensors), {"client_drift": client_drift(updates)})

    def classifier(self, state: ServerState, update: Update | None = None) -> Classifier:
        """Global model, or a client's own two towers."""
        factors = select(state.tensors, "model") if update is None else update.weights
        return self._model.classifier(select(factors, "visual"), select(factors, "text"))

    def trained_parameters(self) -> TrainedParameters:
        """LoRA of both towers."""
        return TrainedParameters(shared=count_parameters(self._model.init_factors()))

    def adapters(self, state: ServerState) -> Mapping[str, Lora]:
        """LoRA of both towers."""
        factors = select(state.tensors, "model")
        return {tower: self._model.lora(select(factors, tower)) for tower in ("visual", "text")}

    def _encode_images(self, adapters: Sequence[Mapping[str, Tensor]], activations: Tensor, owners: Tensor) -> Tensor:
        return self._model.encode_images([select(own, "visual") for own in adapters], activations, owners)

    def _encode_text(self, adapters: Sequence[Mapping[str, Tensor]]) -> Tensor:
        return self._model.encode_text(*(select(own, "text") for own in adapters))
