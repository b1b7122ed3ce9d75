"""FedDTL: decoupled towers, SFT then RL (Ma, Cheng and Xu, ICML 2026, arXiv 2605.27900).

Clients tune LoRA of the image tower against text embeddings that the server broadcasts as a global semantic
anchor; the server tunes LoRA of the text tower on the pooled image embeddings that clients upload.

What the paper leaves open is an option, see `feddtl.config`. One departure: a client keeps nothing between
rounds, and every RL broadcast includes the SFT anchor, so that a client can join at any round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from feddtl.errors import ClientError
from feddtl.messages import ExpectedUpdate, Payload, ServerState, Update, count_parameters
from feddtl.methods.base import Classifier, NextState, TrainedParameters
from feddtl.methods.federated import ANCHOR, SHARED
from feddtl.methods.lora_clip import LoraClip
from feddtl.methods.lora_method import LoraMethod
from feddtl.models.backbone import Tower
from feddtl.models.lora import Lora, Tensors
from feddtl.objectives.supervised import clip_logits
from feddtl.seeding import torch_generator
from feddtl.tensor_groups import add_prefix, select_prefix
from feddtl.training.client_data import ClientData
from feddtl.training.local import Batch, Learner, adam, detached, train, trainable_copy
from feddtl.training.objective import LocalRandomness
from feddtl.training.policy import Policy

TEXT = "text"  # the group of the text tower's LoRA in the server state


class FedDTL(LoraMethod):
    """Federated decoupled tuning with a two-stage schedule.

    The shared tensors are the LoRA of the image tower; the server state also holds `text/…`, that of its text tower.
    """

    client_towers: ClassVar[frozenset[Tower]] = frozenset(("image",))
    server_towers: ClassVar[frozenset[Tower]] = frozenset(("text",))

    def initial_shared(self) -> Tensors:
        """Fresh LoRA of the image tower."""
        return select_prefix(self.model.init_factors(), "image")

    def init_server(self) -> ServerState:
        """Fresh LoRA in both towers; the anchor starts as the pre-trained image tower."""
        text = select_prefix(self.model.init_factors(), "text")
        return with_text(super().init_server(), text)

    def broadcast(self, state: ServerState) -> Payload:
        """LoRA of the image tower, in the RL stage with its SFT anchor, and text embeddings T (C, e).

        Embeddings of the novel classes go along if clients score them.
        """
        payload = super().broadcast(state)
        with torch.no_grad():
            embeddings = self.model.encode_text(select_prefix(state.tensors, TEXT))[0]
        tensors = {**payload.tensors, "text_embeddings": embeddings.cpu()}
        if self.task.novel_names:
            tensors["novel_text_embeddings"] = self.classifier(state).text_embeddings(self.task.novel_names).cpu()
        return replace(payload, tensors=tensors)

    def image_features_of_clients(
        self, tensors: Sequence[Mapping[str, Tensor]], activations: Tensor, owners: Tensor
    ) -> Tensor:
        """See `LoraClip.encode_images`."""
        return self.model.encode_images(tensors, activations, owners)

    def text_embeddings_of_clients(self, tensors: Sequence[Mapping[str, Tensor]], payload: Payload) -> Tensor:
        """The broadcast embeddings (1, C, e), the same for all clients."""
        return payload.tensors["text_embeddings"].to(self.device)[None]

    def uplink_samples(
        self, policy: Policy, learners: Sequence[Learner], clients: Sequence[ClientData], round_number: int
    ) -> list[Tensors]:
        """Unit image embeddings (n, e) and labels (n,) under the tuned encoder; patch tokens never leave."""
        embeddings = normalize(policy.all_features([learner.parameters for learner in learners]), dim=-1).cpu()
        shares = torch.split(embeddings, [len(data) for data in clients])
        return [self._limited(data, share, round_number) for data, share in zip(clients, shares, strict=True)]

    def expected_update(self, payload: Payload) -> ExpectedUpdate:
        """The LoRA of the image tower, and unit embeddings with their labels."""
        width = payload.tensors["text_embeddings"].shape[-1]
        return ExpectedUpdate(select_prefix(payload.tensors, SHARED), {"embeddings": width}, ("labels",))

    def next_state(self, state: ServerState, aggregated: Tensors, updates: Sequence[Update]) -> NextState:
        """The aggregated LoRA of the image tower, and that of the text tower, tuned on the uploaded embeddings."""
        reached = super().next_state(state, aggregated, updates)
        text, metrics = self._train_text(select_prefix(state.tensors, TEXT), updates, state.round + 1)
        return NextState(with_text(reached.state, text), {**reached.metrics, **metrics})

    def classifier(self, state: ServerState, update: Update | None = None) -> Classifier:
        """Global model, or a client's tuned image tower with the text tower it was broadcast."""
        image = self.trained_tensors(state) if update is None else update.weights
        return self.model.classifier(image, select_prefix(state.tensors, TEXT))

    def received_classifier(self, payload: Payload, update: Update | None = None) -> Classifier:
        """Image tower, received or tuned, with the text embeddings that came with it: a client has no text tower."""
        image = select_prefix(payload.tensors, SHARED) if update is None else update.weights
        texts = {self.task.class_names: payload.tensors["text_embeddings"]}
        if self.task.novel_names:
            texts[self.task.novel_names] = payload.tensors["novel_text_embeddings"]
        return ReceivedClassifier(self.model, self.model.lora(image), texts)

    def trained_parameters(self) -> TrainedParameters:
        """LoRA of the image tower on the clients, of the text tower on the server."""
        factors = self.model.init_factors()
        image, text = (count_parameters(select_prefix(factors, tower)) for tower in ("image", "text"))
        return TrainedParameters(shared=image, server=text)

    def adapters(self, state: ServerState) -> Mapping[str, Lora]:
        """LoRA of both towers."""
        return {
            "image": self.model.lora(self.trained_tensors(state)),
            "text": self.model.lora(select_prefix(state.tensors, TEXT)),
        }

    def _limited(self, data: ClientData, embeddings: Tensor, round_number: int) -> Tensors:
        """A client's embeddings and labels, at most `uplink.max_embeddings_per_class` of each class."""
        limit = self.training.uplink.max_embeddings_per_class
        if not limit:
            return {"embeddings": embeddings.clone(), "labels": data.labels.clone()}
        source = LocalRandomness(self.task.seed, data.client, round_number).generator("uplink")
        kept = sample_per_class(data.labels, limit, source)
        return {"embeddings": embeddings[kept], "labels": data.labels[kept]}

    def _train_text(
        self, text: Tensors, updates: Sequence[Update], round_number: int
    ) -> tuple[Tensors, dict[str, float]]:
        config, scale = self.training.server, self.clip.logit_scale
        if config.epochs == 0:
            return text, {}
        embeddings = torch.cat([update.samples["embeddings"] for update in updates]).to(self.device)
        labels = torch.cat([update.samples["labels"] for update in updates]).to(self.device)
        adapters = trainable_copy(text, self.device)

        def step(batches: Sequence[Batch]) -> dict[str, Tensor]:
            batch = batches[0].rows.to(self.device, non_blocking=True)
            logits = clip_logits(embeddings[batch], self.model.encode_text(adapters)[0], scale)
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
        image_lora: Adapter of the image tower.
        texts: Unit text embeddings (C, e) by class list.
    """

    model: LoraClip
    image_lora: Lora
    texts: Mapping[tuple[str, ...], Tensor]

    @property
    def images_per_pass(self) -> int:
        """See `ImageTower.images_per_pass`."""
        return self.model.clip.image.images_per_pass

    @torch.no_grad()
    def image_features(self, activations: Tensor) -> Tensor:
        """Unit image embeddings (B, e) from activations (B, S, d)."""
        features = self.model.clip.image.features(activations, self.model.first_image_block, self.image_lora)
        return normalize(features, dim=-1)

    def text_embeddings(self, class_names: Sequence[str]) -> Tensor:
        """Unit text embeddings (C, e). Raises ClientError for class names whose texts were not sent."""
        found = self.texts.get(tuple(class_names))
        if found is None:
            raise ClientError(f"The server sent no text embeddings of these classes: {', '.join(class_names)[:200]}.")
        return found.to(self.model.device)


def with_text(state: ServerState, text: Tensors) -> ServerState:
    """A server state with this LoRA of the text tower, behind the shared tensors."""
    shared, rest = (add_prefix(group, select_prefix(state.tensors, group)) for group in (SHARED, ANCHOR))
    return replace(state, tensors={**shared, **add_prefix(TEXT, text), **rest})


def sample_per_class(labels: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """Sorted positions of at most `limit` samples of each class, drawn without replacement; labels (N,)."""
    order = torch.randperm(len(labels), generator=generator)
    kept = [order[labels[order] == label][:limit] for label in torch.unique(labels)]
    return torch.cat(kept).sort().values
