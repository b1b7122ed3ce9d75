"""FedLoRA: LoRA of both towers trained on the client, both averaged (ablation rows of FedDTL, §4).

With `schedule.stages = 'sft'` it is the plain baseline; with 'sft-then-rl' the row "+ two-stage". Optimiser,
learning rate, epochs and rank are FedDTL's, so that the rows differ in the ablated part only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from feddtl.aggregators.mean import average_lora, client_drift
from feddtl.config import Experiment
from feddtl.messages import ExpectedUpdate, Payload, ServerState, Update, count_parameters
from feddtl.methods.base import Aggregate, Classifier, Method, Task, TrainedParameters
from feddtl.methods.lora_clip import LoraClip
from feddtl.models.lora import Lora, Tensors
from feddtl.tensor_groups import add_prefix, select_prefix
from feddtl.training.client_data import ClientData
from feddtl.training.local import EpochObserver, detached, ignore_epochs
from feddtl.training.objective import LocalRandomness
from feddtl.training.stages import fine_tune


class FedLoRA(Method):
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
        return ServerState(0, {**add_prefix("model", factors), **add_prefix("anchor", factors)})

    def stage(self, round_number: int) -> str:
        """'sft' up to round M, then 'rl'."""
        return self._config.stage(round_number)

    def broadcast(self, state: ServerState) -> Payload:
        """LoRA of both towers; in the RL stage the SFT anchor too."""
        tensors = add_prefix("model", select_prefix(state.tensors, "model"))
        if self.stage(state.round + 1) == "rl":
            tensors |= add_prefix("anchor", select_prefix(state.tensors, "anchor"))
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
        received, anchor = select_prefix(payload.tensors, "model"), select_prefix(payload.tensors, "anchor")
        stage = self.stage(payload.round)
        tuned = fine_tune(stage, policy, clients, received, anchor, self._config, randomness, observer)
        return [
            Update(data.client, len(data), detached(adapters), metrics=metrics)
            for data, (adapters, metrics) in zip(clients, tuned, strict=True)
        ]

    def expected_update(self, payload: Payload) -> ExpectedUpdate:
        """LoRA of both towers."""
        return ExpectedUpdate(select_prefix(payload.tensors, "model"))

    def aggregate(self, state: ServerState, updates: Sequence[Update]) -> Aggregate:
        """Average both towers' LoRA."""
        factors = average_lora(updates, self._config.lora.rank, self._config.server.aggregation)
        anchor = factors if self.stage(state.round + 1) == "sft" else select_prefix(state.tensors, "anchor")
        tensors = {**add_prefix("model", factors), **add_prefix("anchor", anchor)}
        return Aggregate(ServerState(state.round + 1, tensors), {"client_drift": client_drift(updates)})

    def classifier(self, state: ServerState, update: Update | None = None) -> Classifier:
        """Global model, or a client's own two towers."""
        factors = select_prefix(state.tensors, "model") if update is None else update.weights
        return self._model.classifier(select_prefix(factors, "visual"), select_prefix(factors, "text"))

    def trained_parameters(self) -> TrainedParameters:
        """LoRA of both towers."""
        return TrainedParameters(shared=count_parameters(self._model.init_factors()))

    def adapters(self, state: ServerState) -> Mapping[str, Lora]:
        """LoRA of both towers."""
        factors = select_prefix(state.tensors, "model")
        return {tower: self._model.lora(select_prefix(factors, tower)) for tower in ("visual", "text")}

    def _encode_images(self, adapters: Sequence[Mapping[str, Tensor]], activations: Tensor, owners: Tensor) -> Tensor:
        return self._model.encode_images([select_prefix(own, "visual") for own in adapters], activations, owners)

    def _encode_text(self, adapters: Sequence[Mapping[str, Tensor]]) -> Tensor:
        return self._model.encode_text(*(select_prefix(own, "text") for own in adapters))
