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
from feddtl.messages import Aggregate, ExpectedUpdate, Payload, ServerState, Update, count_parameters
from feddtl.methods.base import NextState, TrainedParameters
from feddtl.methods.classifier import Classifier
from feddtl.methods.local_round import ANCHOR, SHARED
from feddtl.methods.lora import LoraMethod
from feddtl.models.backbone import Tower
from feddtl.models.lora import Tensors
from feddtl.objectives.supervised import clip_logits
from feddtl.seeding import torch_generator
from feddtl.tensor_groups import keep_groups
from feddtl.training.client_data import ClientData
from feddtl.training.local import Batch, Learner, detached, train, trainable_copy
from feddtl.training.optimizers import Adam
from feddtl.training.policy import Policy


class FedDTL(LoraMethod):
    """Federated decoupled tuning with a two-stage schedule.

    The shared tensors are the LoRA of the image tower, `image/…`; the server state also has that of the text tower,
    `text/…`.
    """

    trains_on_server: ClassVar[bool] = True
    client_towers: ClassVar[frozenset[Tower]] = frozenset(("image",))
    server_towers: ClassVar[frozenset[Tower]] = frozenset(("text",))

    def initial_shared(self) -> Tensors:
        """Fresh LoRA of the image tower."""
        return self.shared_factors("image")

    def init_server(self) -> ServerState:
        """Fresh LoRA in both towers; the anchor starts as the pre-trained image tower."""
        return with_text(super().init_server(), self.initial_factors("text"))

    def global_tensors(self, state: ServerState) -> Tensors:
        """LoRA of both towers."""
        return {**self.trained_tensors(state), **text_factors(state)}

    def broadcast(self, state: ServerState) -> Payload:
        """LoRA of the image tower, in the RL stage with its SFT anchor, and text embeddings T (C, e).

        Embeddings of the novel classes go along if clients score them.
        """
        payload, classifier = super().broadcast(state), self.classifier(state)
        texts = {"text_embeddings": classifier.text_embeddings(self.task.class_names).cpu()}
        if self.task.novel_names:
            texts["novel_text_embeddings"] = classifier.text_embeddings(self.task.novel_names).cpu()
        return replace(payload, tensors={**payload.tensors, **texts})

    def text_embeddings_of_clients(self, tensors: Sequence[Mapping[str, Tensor]], payload: Payload) -> Tensor:
        """The broadcast embeddings (1, C, e), the same for all clients."""
        return payload.tensors["text_embeddings"].to(self.device)[None]

    def uplink_samples(self, policy: Policy, learners: Sequence[Learner]) -> list[Tensors]:
        """Unit image embeddings (n, e) of the tuned encoder and labels (n,); patch tokens never leave."""
        embeddings = normalize(policy.all_features([learner.parameters for learner in learners]), dim=-1).cpu()
        shares = torch.split(embeddings, [len(data) for data in policy.clients])
        return [self._limited(data, own, policy.round) for data, own in zip(policy.clients, shares, strict=True)]

    def expected_update(self, payload: Payload) -> ExpectedUpdate:
        """LoRA of the image tower, and unit embeddings with their labels."""
        width = payload.tensors["text_embeddings"].shape[-1]
        return replace(super().expected_update(payload), embeddings={"embeddings": width}, labels=("labels",))

    def next_state(self, state: ServerState, aggregate: Aggregate, updates: Sequence[Update]) -> NextState:
        """The aggregated LoRA of the image tower, and that of the text tower, tuned on the uploaded embeddings."""
        reached = super().next_state(state, aggregate, updates)
        text, metrics = self._train_text(text_factors(state), updates, state.round + 1)
        return NextState(with_text(reached.state, text), {**reached.metrics, **metrics})

    def received_classifier(self, payload: Payload, update: Update | None = None) -> Classifier:
        """Image tower, received or tuned, with the text embeddings that came with it: a client has no text tower."""
        texts = {self.task.class_names: payload.tensors["text_embeddings"]}
        if self.task.novel_names:
            texts[self.task.novel_names] = payload.tensors["novel_text_embeddings"]
        own = super().received_classifier(payload, update)
        return ReceivedClassifier(own.images_per_pass, own.encode_images, own.encode_texts, texts, self.device)

    def trained_parameters(self) -> TrainedParameters:
        """LoRA of the image tower on the clients, of the text tower on the server."""
        return replace(super().trained_parameters(), server=count_parameters(self.initial_factors("text")))

    def _limited(self, data: ClientData, embeddings: Tensor, round_number: int) -> Tensors:
        """A client's embeddings and labels, at most `uplink.max_embeddings_per_class` of each class."""
        limit = self.training.uplink.max_embeddings_per_class
        if not limit:
            return {"embeddings": embeddings.clone(), "labels": data.labels.clone()}
        source = torch_generator(self.task.seed, "uplink", data.client, round_number)
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
        factors = trainable_copy(text, self.device)

        def step(batches: Sequence[Batch]) -> dict[str, Tensor]:
            batch = batches[0].indices.to(self.device, non_blocking=True)
            texts = normalize(self.text_features(factors, self.task.class_names), dim=-1)
            logits = clip_logits(embeddings[batch], texts, scale)
            loss = cross_entropy(logits, labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            hits = logits.detach().argmax(dim=-1) == labels[batch]
            return {"loss": loss.detach()[None] * len(batch), "accuracy": hits.sum(dtype=loss.dtype)[None]}

        order = torch_generator(self.task.seed, "server-batch-order", round_number)
        server = Learner(factors, range(len(labels)), order)
        [metrics] = train(
            [server],
            step,
            epochs=config.epochs,
            batch_size=config.batch_size,
            optimizer=Adam(factors.values(), config.learning_rate),
        )
        return detached(factors), metrics


@dataclass(frozen=True)
class ReceivedClassifier(Classifier):
    """The image tower of a client, and text embeddings from the server.

    Attributes:
        texts: Unit text embeddings (C, e) by class list.
        device: Where the image tower computes.
    """

    texts: Mapping[tuple[str, ...], Tensor]
    device: torch.device

    def text_embeddings(self, class_names: Sequence[str]) -> Tensor:
        """Unit text embeddings (C, e). Raises ClientError for class names whose texts were not sent."""
        found = self.texts.get(tuple(class_names))
        if found is None:
            raise ClientError(f"The server sent no text embeddings of these classes: {', '.join(class_names)[:200]}.")
        return found.to(self.device)


def text_factors(state: ServerState) -> Tensors:
    """LoRA of the text tower in a server state, `text/…`."""
    return keep_groups(state.tensors, "text")


def with_text(state: ServerState, text: Tensors) -> ServerState:
    """A server state with this LoRA of the text tower."""
    # The text tower stands before the anchor: the asynchronous server adds norms in the order of the tensors.
    shared, anchor = keep_groups(state.tensors, SHARED), keep_groups(state.tensors, ANCHOR)
    return replace(state, tensors={**shared, **text, **anchor})


def sample_per_class(labels: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """Sorted positions of at most `limit` samples of each class, drawn without replacement; labels (N,)."""
    order = torch.randperm(len(labels), generator=generator)
    kept = [order[labels[order] == label][:limit] for label in torch.unique(labels)]
    return torch.cat(kept).sort().values
