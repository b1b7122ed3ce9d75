"""FedLoRA: LoRA of both towers trained on the client, both aggregated (ablation rows of FedDTL, §4).

With `schedule.stages = 'sft'` it is the plain baseline; with 'sft-then-rl' the row "+ two-stage". Optimiser,
learning rate, epochs and rank are FedDTL's, so that the rows differ in the ablated part only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from feddtl.messages import Payload, ServerState
from feddtl.methods.lora_clip import frozen_text
from feddtl.methods.lora_method import LoraMethod
from feddtl.models.lora import Lora, Tensors
from feddtl.tensor_groups import select_prefix


class FedLoRA(LoraMethod):
    """Federated averaging of two-tower LoRA, named 'image/…' and 'text/…'."""

    def initial_shared(self) -> Tensors:
        """Fresh LoRA of both towers."""
        return self.model.init_factors()

    def image_features(self, tensors: Mapping[str, Tensor], activations: Tensor) -> Tensor:
        """Projected features (B, e) under the LoRA of the image tower."""
        adapter = self.model.lora(select_prefix(tensors, "image"))
        return self.clip.image.features(activations, self.first_image_block, adapter)

    def text_features(self, tensors: Mapping[str, Tensor], class_names: Sequence[str]) -> Tensor:
        """Projected features (C, e) under the LoRA of the text tower."""
        first = self.model.first_text_block
        hidden, positions = frozen_text(self.clip, class_names, self.task.prompt_template, first)
        return self.clip.text.features(hidden, positions, first, self.model.lora(select_prefix(tensors, "text")))

    def image_features_of_clients(
        self, tensors: Sequence[Mapping[str, Tensor]], activations: Tensor, owners: Tensor
    ) -> Tensor:
        """See `LoraClip.encode_images`."""
        return self.model.encode_images([select_prefix(own, "image") for own in tensors], activations, owners)

    def text_embeddings_of_clients(self, tensors: Sequence[Mapping[str, Tensor]], payload: Payload) -> Tensor:
        """See `LoraClip.encode_text`."""
        return self.model.encode_text(*(select_prefix(own, "text") for own in tensors))

    def adapters(self, state: ServerState) -> Mapping[str, Lora]:
        """LoRA of both towers."""
        factors = self.trained_tensors(state)
        return {tower: self.model.lora(select_prefix(factors, tower)) for tower in ("image", "text")}
