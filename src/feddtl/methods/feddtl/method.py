"""FedDTL: decoupled towers, SFT then RL (Ma, Cheng and Xu, ICML 2026, arXiv 2605.27900).

Clients tune LoRA of the image tower against text embeddings that the server broadcasts as a global semantic
anchor; the server tunes LoRA of the text tower on the pooled image embeddings that clients upload.

What the paper leaves open is an option, see `feddtl.config`. One departure: a client keeps nothing between
rounds, and the SFT anchor travels with every RL broadcast, so that a client may join at any round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from feddtl.aggregators.mean import average_lora, client_drift
from feddtl.config import Experiment
from feddtl.errors import ClientError
from feddtl.messages import ExpectedUpdate, Payload, ServerState, Update, count_parameters
from feddtl.methods.base import Aggregate, Classifier, Method, Task, TrainedParameters
from feddtl.methods.lora_clip import LoraClip
from feddtl.models.lora import Lora, Tensors
from feddtl.objectives.supervised import clip_logits
from feddtl.seeding import torch_generator
from feddtl.tensor_groups import add_prefix, select_prefix
from feddtl.training.client_data import ClientData
from feddtl.training.local import Batch, EpochObserver, Learner, adam, detached, ignore_epochs, train, trainable_copy
from feddtl.training.objective import LocalRandomness
from feddtl.training.policy import Policy
from feddtl.training.stages import fine_tune


class FedDTL(Method):
    """Federated decoupled tuning with a two-stage schedule.

    Server state: `visual/…` and `text/…` LoRA factors, `anchor/…` the visual ones after the last SFT round.
    """

    client_towers = frozenset(("image",))
    server_towers = frozenset(("text",))

    def __init__(self, task: Task, experiment: Experiment) -> None:
        self.task = task
        self._config = experiment
        self._model = LoraClip(task, experiment.lora)
        self.first_image_block = self._model.first_image_block
        self.clients_together = self._model.clients_together(experiment.local.batch_size)

    def init_server(self) -> ServerState:
        """Fresh LoRA in both towers; the anchor starts as the pre-trained image tower."""
        factors = self._model.init_factors()
        return ServerState(0, {**factors, **add_prefix("anchor", select_prefix(factors, "visual"))})

    def stage(self, round_number: int) -> str:
        """'sft' up to round M, then 'rl'."""
        return self._config.stage(round_number)

    def broadcast(self, state: ServerState) -> Payload:
        """Visual LoRA and text embeddings T (C, e); those of novel classes that clients score; in RL the SFT anchor."""
        with torch.no_grad():
            embeddings = self._model.encode_text(select_prefix(state.tensors, "text"))[0]
        tensors = {**add_prefix("visual", select_prefix(state.tensors, "visual")), "text_embeddings": embeddings.cpu()}
        if self.task.novel_names:
            tensors["novel_text_embeddings"] = self.classifier(state).text_embeddings(self.task.novel_names).cpu()
        if self.stage(state.round + 1) == "rl":
            tensors |= add_prefix("anchor", select_prefix(state.tensors, "anchor"))
        return Payload(state.round + 1, tensors)

    def client_update(
        self, payload: Payload, data: ClientData, personal: Tensors, observer: EpochObserver = ignore_epochs
    ) -> Update:
        """Tune the visual LoRA; return it with the embeddings of the client's training images."""
        return self.client_updates(payload, [data], [personal], observer)[0]

    def client_updates(
        self,
        payload: Payload,
        clients: Sequence[ClientData],
        personal: Sequence[Tensors],
        observer: EpochObserver = ignore_epochs,
    ) -> list[Update]:
        """`client_update` of several clients, their steps computed as one."""
        policy = self._policy(clients, payload)
        randomness = [LocalRandomness(self.task.seed, data.client, payload.round) for data in clients]
        received, anchor = select_prefix(payload.tensors, "visual"), select_prefix(payload.tensors, "anchor")
        stage = self.stage(payload.round)
        tuned = fine_tune(stage, policy, clients, received, anchor, self._config, randomness, observer)
        embeddings = normalize(policy.all_features([adapters for adapters, _ in tuned]), dim=-1).cpu()
        shares = torch.split(embeddings, [len(data) for data in clients])
        return [
            Update(data.client, len(data), detached(adapters), self._uplink(share, data.labels, source), metrics)
            for data, (adapters, metrics), share, source in zip(clients, tuned, shares, randomness, strict=True)
        ]

    def expected_update(self, payload: Payload) -> ExpectedUpdate:
        """Visual LoRA, and unit embeddings with their labels."""
        width = payload.tensors["text_embeddings"].shape[-1]
        return ExpectedUpdate(select_prefix(payload.tensors, "visual"), {"embeddings": width}, ("labels",))

    def aggregate(self, state: ServerState, updates: Sequence[Update]) -> Aggregate:
        """Average the visual LoRA, then tune the text LoRA on the uploaded embeddings."""
        round_number = state.round + 1
        visual = average_lora(updates, self._config.lora.rank, self._config.server.aggregation)
        text, metrics = self._train_text(select_prefix(state.tensors, "text"), updates, round_number)
        anchor = visual if self.stage(round_number) == "sft" else select_prefix(state.tensors, "anchor")
        tensors = {**add_prefix("visual", visual), **add_prefix("text", text), **add_prefix("anchor", anchor)}
        return Aggregate(ServerState(round_number, tensors), {**metrics, "client_drift": client_drift(updates)})

    def classifier(self, state: ServerState, update: Update | None = None) -> Classifier:
        """Global model, or a client's tuned image tower with the text tower it was broadcast."""
        visual = select_prefix(state.tensors, "visual") if update is None else update.weights
        return self._model.classifier(visual, select_prefix(state.tensors, "text"))

    def received_classifier(self, payload: Payload, update: Update | None = None) -> Classifier:
        """Image tower, received or tuned, with the text embeddings that came with it: a client has no text tower."""
        visual = select_prefix(payload.tensors, "visual") if update is None else update.weights
        texts = {self.task.class_names: payload.tensors["text_embeddings"]}
        if self.task.novel_names:
            texts[self.task.novel_names] = payload.tensors["novel_text_embeddings"]
        return ReceivedClassifier(self._model, self._model.lora(visual), texts)

    def trained_parameters(self) -> TrainedParameters:
        """LoRA of the image tower on the clients, of the text tower on the server."""
        factors = self._model.init_factors()
        visual, text = (count_parameters(select_prefix(factors, tower)) for tower in ("visual", "text"))
        return TrainedParameters(shared=visual, server=text)

    def adapters(self, state: ServerState) -> Mapping[str, Lora]:
        """LoRA of both towers."""
        return {tower: self._model.lora(select_prefix(state.tensors, tower)) for tower in ("visual", "text")}

    def _policy(self, clients: Sequence[ClientData], payload: Payload) -> Policy:
        anchor = payload.tensors["text_embeddings"].to(self._model.device)[None]  # (1, C, e): all clients' own
        return self._model.policy(clients, payload.round, self._model.encode_images, lambda adapters: anchor)

    def _uplink(self, embeddings: Tensor, labels: Tensor, randomness: LocalRandomness) -> Tensors:
        """Unit image embeddings (n, e) and labels (n,) under the tuned encoder; patch tokens never leave."""
        limit = self._config.uplink.max_embeddings_per_class
        if limit:
            kept = sample_per_class(labels, limit, randomness.generator("uplink"))
            return {"embeddings": embeddings[kept], "labels": labels[kept]}
        return {"embeddings": embeddings.clone(), "labels": labels.clone()}

    def _train_text(
        self, text: Tensors, updates: Sequence[Update], round_number: int
    ) -> tuple[Tensors, dict[str, float]]:
        config, scale = self._config.server, self._model.clip.logit_scale
        if config.epochs == 0:
            return text, {}
        embeddings = torch.cat([update.samples["embeddings"] for update in updates]).to(self._model.device)
        labels = torch.cat([update.samples["labels"] for update in updates]).to(self._model.device)
        adapters = trainable_copy(text, self._model.device)

        def step(batches: Sequence[Batch]) -> dict[str, Tensor]:
            batch = batches[0].rows.to(self._model.device, non_blocking=True)
            logits = clip_logits(embeddings[batch], self._model.encode_text(adapters)[0], scale)
            loss = cross_entropy(logits, labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            hits = logits.detach().argmax(dim=-1) == labels[batch]
            return {"loss": loss.detach()[None] * len(batch), "accuracy": hits.sum(dtype=loss.dtype)[None]}

        order = torch_generator(self.task.seed, "server-batch-order", round_number)
        server = Learner(adapters, range(len(labels)), order)
        [metrics] = train(
            [server],
            step,
            epochs=config.epochs,
            batch_size=config.batch_size,
            optimizer=adam([server], config.learning_rate),
        )
        return detached(adapters), metrics


@dataclass(frozen=True)
class ReceivedClassifier:
    """Image tower of a client, and text embeddings from the server.

    Attributes:
        model: CLIP and where its adapters go.
        visual: Adapter of the image tower.
        texts: Unit text embeddings (C, e) by class list.
    """

    model: LoraClip
    visual: Lora
    texts: Mapping[tuple[str, ...], Tensor]

    @property
    def images_per_pass(self) -> int:
        """See `ImageTower.images_per_pass`."""
        return self.model.clip.image.images_per_pass

    @torch.no_grad()
    def image_features(self, activations: Tensor) -> Tensor:
        """Unit image embeddings (B, e) from activations (B, S, d)."""
        features = self.model.clip.image.features(activations, self.model.first_image_block, self.visual)
        return normalize(features, dim=-1)

    def text_embeddings(self, class_names: Sequence[str]) -> Tensor:
        """Unit text embeddings (C, e). Raises ClientError for class names whose texts were not sent."""
        found = self.texts.get(tuple(class_names))
        if found is None:
            raise ClientError(f"The server sent no text embeddings of these classes: {', '.join(class_names)[:200]}.")
        return found.to(self.model.device)


def sample_per_class(labels: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """Sorted positions of at most `limit` samples of each class, drawn without replacement; labels (N,)."""
    order = torch.randperm(len(labels), generator=generator)
    kept = [order[labels[order] == label][:limit] for label in torch.unique(labels)]
    return torch.cat(kept).sort().values
