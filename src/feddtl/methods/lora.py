"""CLIP with LoRA in the last blocks of both towers: what FedDTL and FedLoRA have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from feddtl.aggregators.base import Aggregator
from feddtl.aggregators.product import Product
from feddtl.config import TrainingSettings
from feddtl.messages import Aggregate, Payload, ServerState, Update
from feddtl.methods.base import Method, NextState
from feddtl.methods.local_round import SHARED
from feddtl.methods.task import Task
from feddtl.models.averaging import anonymous, averaging_error, averaging_residual
from feddtl.models.backbone import Tower
from feddtl.models.lora import A_SUFFIX, B_SUFFIX, Lora, Tensors, grouped, init_factors, mix
from feddtl.models.residual import as_factors, grown, joined
from feddtl.models.text_tower import mean_over_templates
from feddtl.tensor_groups import add_prefix, drop_groups, select_prefix

# The factors of all of them take part in every low-rank product: at 16 clients of rank 4 that is the cost of rank 64.
MAX_CLIENTS_TOGETHER = 16


# Group among the shared tensors: what aggregation added to the frozen weights, see `feddtl.models.residual`.
RESIDUAL = "residual"


class LoraMethod(Method):
    """A method that trains LoRA factors, named 'image/<layer>…' and 'text/<layer>…' after their tower.

    With `lora.aggregation` = 'residual', the shared tensors have the group `residual/…` as well, from the first
    aggregation on: it is broadcast, saved and part of the anchor like the factors, and never trained.
    """

    own_optimizer: ClassVar[Literal["adam", "sgd"]] = "adam"
    trains_lora: ClassVar[bool] = True

    def __init__(self, task: Task, settings: Any, training: TrainingSettings) -> None:
        super().__init__(task, settings, training)
        config = training.lora
        self.aggregation = "factors" if config.aggregation == "auto" else config.aggregation
        self._initial_a: dict[torch.device, Tensors] = {}
        self.first_image_block = self.clip.image.stack.resolve(config.first_image_block, "lora.first_image_block")
        self.first_text_block = self.clip.text.stack.resolve(config.first_text_block, "lora.first_text_block")
        # Where one batch fills a pass, steps together save nothing. Nor do they on a CPU in float32: the larger product
        # costs more in caches than it saves in calls.
        if self.device.type != "cpu" or self.clip.image.precision == torch.bfloat16:
            batches = self.clip.image.images_per_pass // training.local.batch_size
            self.clients_together = max(1, min(MAX_CLIENTS_TOGETHER, batches))

    def initial_factors(self, tower: Tower) -> Tensors:
        """Fresh factors of a tower, `<tower>/<layer>…`; B = 0, so the model is the pre-trained one."""
        config = self.training.lora
        if tower == "image":
            shapes = self.clip.image.stack.layer_shapes(self.first_image_block, config.target_names)
        else:
            shapes = self.clip.text.stack.layer_shapes(self.first_text_block, config.target_names)
        return add_prefix(tower, init_factors(shapes, config.rank, self.task.seed))

    def shared_factors(self, *towers: Tower) -> Tensors:
        """Fresh factors of the towers whose adapters the clients share; without A where it is frozen, since server and
        clients draw the same."""
        factors = {name: factor for tower in towers for name, factor in self.initial_factors(tower).items()}
        frozen = self.aggregation == "frozen-a"
        return {name: factor for name, factor in factors.items() if not (frozen and name.endswith(A_SUFFIX))}

    def trained_in_round(self, shared: Mapping[str, Tensor], round_number: int) -> Tensors:
        """All factors; with 'alternate' B in odd rounds and A in even ones, with 'frozen-a' always B.

        B is first: as long as it is zero, A has no gradient.
        """
        if self.aggregation not in ("alternate", "frozen-a"):
            return drop_groups(shared, RESIDUAL)
        trained = A_SUFFIX if self.aggregation == "alternate" and round_number % 2 == 0 else B_SUFFIX
        return {name: factor for name, factor in shared.items() if name.endswith(trained)}

    def aggregator(self) -> Aggregator:
        """See `Method.aggregator`; with 'product', the mean of B·A."""
        return Product(self.training.server) if self.aggregation == "product" else super().aggregator()

    def next_state(self, state: ServerState, aggregate: Aggregate, updates: Sequence[Update]) -> NextState:
        """See `Method.next_state`; the metrics of two clients or more have the `averaging_error`, and the residual
        grows if there is one."""
        received = self._complete(select_prefix(state.tensors, SHARED))
        clients = [{**drop_groups(received, RESIDUAL), **update.weights} for update in updates]
        metrics = {"averaging_error": averaging_error(clients, aggregate.shares)} if len(updates) > 1 else {}
        if self.aggregation == "residual":
            dtype = next(iter(aggregate.tensors.values())).dtype
            lacking = anonymous(averaging_residual(clients, aggregate.shares))
            residual = grown(select_prefix(received, RESIDUAL), lacking, dtype)
            aggregate = replace(aggregate, tensors={**aggregate.tensors, **add_prefix(RESIDUAL, residual)})
            # A layer may get another form, so what it had must go.
            state = replace(state, tensors=drop_groups(state.tensors, f"{SHARED}/{RESIDUAL}"))
        return NextState(super().next_state(state, aggregate, updates).state, metrics)

    def lora(self, tensors: Mapping[str, Tensor], tower: Tower) -> Lora:
        """The adapter of a tower, on the model's device."""
        factors = select_prefix(self._complete(tensors), tower)
        residual = as_factors(select_prefix(tensors, f"{RESIDUAL}/{tower}"))
        on_device = [{name: factor.to(self.device) for name, factor in part.items()} for part in (factors, residual)]
        return Lora(on_device[0], self.training.lora.scaling, on_device[1])

    def adapters(self, state: ServerState) -> Mapping[str, Lora]:
        """The adapters of both towers."""
        tensors = self.global_tensors(state)
        return {"image": self.lora(tensors, "image"), "text": self.lora(tensors, "text")}

    def image_features(self, tensors: Mapping[str, Tensor], activations: Tensor) -> Tensor:
        """Projected features (B, e) with the adapter of the image tower."""
        return self.clip.image.features(activations, self.first_image_block, self.lora(tensors, "image"))

    def text_features(self, tensors: Mapping[str, Tensor], class_names: Sequence[str]) -> Tensor:
        """Projected features (C, e) with the adapter of the text tower."""
        return self.class_features(class_names, self.first_text_block, self.lora(tensors, "text"))

    def image_features_of_clients(
        self, tensors: Sequence[Mapping[str, Tensor]], activations: Tensor, owners: Tensor
    ) -> Tensor:
        """Features of several clients' images, computed as one."""
        members = [self.lora(own, "image") for own in tensors]
        adapter = grouped(members, owners.to(self.device, non_blocking=True))
        return self.clip.image.features(activations, self.first_image_block, adapter)

    def text_embeddings_of_clients(self, tensors: Sequence[Mapping[str, Tensor]], payload: Payload) -> Tensor:
        """Unit embeddings (K, C, e) with each client's adapter, computed as one."""
        hidden, positions = self.frozen_prompts(self.task.class_names, self.first_text_block)
        count, prompts = len(tensors), len(positions)
        owners = torch.arange(count, device=self.device).repeat_interleave(prompts)
        adapter = grouped([self.lora(own, "text") for own in tensors], owners)
        hidden, positions = hidden.repeat(count, 1, 1), positions.repeat(count)
        features = self.clip.text.features(hidden, positions, self.first_text_block, adapter)
        by_client = mean_over_templates(features.view(count, prompts, -1), len(self.task.class_names))
        return normalize(by_client, dim=-1)

    def mix(self, parts: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> Tensors:
        """Factors of Σ_i w_i · B_i A_i, exact: a mean of the factors would be another model."""
        models = [self._complete(part) for part in parts]
        return mix([joined(drop_groups(own, RESIDUAL), select_prefix(own, RESIDUAL)) for own in models], weights)

    def _complete(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors with the frozen A of every layer of which they have B alone."""
        if self.aggregation != "frozen-a":
            return tensors
        layers = [name.removesuffix(B_SUFFIX) for name in tensors if name.endswith(B_SUFFIX)]
        missing = [layer + A_SUFFIX for layer in layers if layer + A_SUFFIX not in tensors]
        # The server's tensors are on the CPU, those of a client in training on its device.
        device = tensors[layers[0] + B_SUFFIX].device if layers else self.device
        return {**tensors, **{name: self._initial_a_on(device)[name] for name in missing}}

    def _initial_a_on(self, device: torch.device) -> Tensors:
        """A of all layers as it was drawn, on a device."""
        if device not in self._initial_a:
            factors = {**self.initial_factors("image"), **self.initial_factors("text")}
            drawn = {name: factor for name, factor in factors.items() if name.endswith(A_SUFFIX)}
            self._initial_a[device] = {name: factor.to(device) for name, factor in drawn.items()}
        return self._initial_a[device]
