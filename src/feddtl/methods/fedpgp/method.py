"""FedPGP: a shared prompt and a personal low-rank change of it (Cui et al., ICML 2024, arXiv 2405.09771).

A client's prompt is σ + U V: σ (n, d) is averaged, U (n, b) and V (b, d) stay on the client. The loss is
CE(σ + U V) + μ · ℓ with ℓ = -log( e^{p/t} / (e^{p/t} + e^{m/t}) ), the mean over the classes, where
p = cos(T(hand-written), T(σ)) keeps the shared prompt general and m = cos(T(σ), T(σ + U V)) pushes the personal one
away from it.

U and V start from N(0, σ_0²), as the prompt, and are equal on all clients.

Choices: the global model is σ alone, since U V belongs to one client; one prompt per class name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from feddtl.config import TrainingSettings
from feddtl.methods.base import Method
from feddtl.methods.contexts import initial_contexts, note_on_positions
from feddtl.methods.fedpgp.settings import FedPGPSettings
from feddtl.methods.promptfl.method import CONTEXT, prompted_features
from feddtl.methods.task import Task
from feddtl.models.lora import Tensors
from feddtl.seeding import torch_generator
from feddtl.training.local import Learner
from feddtl.training.objective import Objective, Supervised
from feddtl.training.policy import Policy


class FedPGP(Method):
    """Federated averaging of a prompt with personal low-rank changes."""

    Settings = FedPGPSettings
    settings: FedPGPSettings
    learns_prompts: ClassVar[bool] = True

    def __init__(self, task: Task, settings: Any, training: TrainingSettings) -> None:
        super().__init__(task, settings, training)
        self._initial = initial_contexts(task, settings, "fedpgp/shared")

    def initial_shared(self) -> Tensors:
        """σ, (n, d): see `initial_contexts`."""
        return {CONTEXT: self._initial.clone()}

    def initial_personal(self, client: int) -> Tensors:
        """U (n, b) and V (b, d) ~ N(0, σ_0²), equal for all clients."""
        config = self.settings
        return {
            "U": self._draw(len(self._initial), config.bottleneck, "fedpgp/U"),
            "V": self._draw(config.bottleneck, self.clip.text.width, "fedpgp/V"),
        }

    def text_features(self, tensors: Mapping[str, Tensor], class_names: Sequence[str]) -> Tensor:
        """Projected features (C, e) under σ + U V, or under σ where there is no personal part."""
        context = tensors[CONTEXT]
        if "U" in tensors:
            context = context + tensors["U"] @ tensors["V"]
        return prompted_features(self.clip.text, context, class_names)

    def supervised_objective(self, policy: Policy, learners: Sequence[Learner]) -> Objective:
        """Cross-entropy and the contrastive term."""
        return PromptContrast(policy, learners, self)

    def notes(self) -> list[str]:
        """Whether prompts are longer than the text tower knows."""
        return [note] if (note := note_on_positions(self.task, self.settings, len(self._initial))) else []

    def written_features(self) -> Tensor:
        """Projected features (C, e) of the hand-written prompts."""
        return super().text_features({}, self.task.class_names)

    def _draw(self, rows: int, columns: int, purpose: str) -> Tensor:
        generator = torch_generator(self.task.seed, purpose)
        return self.settings.init_std * torch.randn(rows, columns, generator=generator)


class PromptContrast(Supervised):
    """Cross-entropy of the personal prompt, and the term that relates it to the shared and the hand-written one."""

    def __init__(self, policy: Policy, learners: Sequence[Learner], method: FedPGP) -> None:
        super().__init__(policy, learners)
        self._method = method
        self._written = normalize(method.written_features(), dim=-1)

    def text_term(self, clients: Sequence[Mapping[str, Tensor]], text: Tensor) -> Tensor | None:
        """μ · ℓ of each part."""
        config, names = self._method.settings, self._method.task.class_names
        if config.contrast_weight == 0:
            return None
        terms = []
        for tensors, personal in zip(clients, text, strict=True):
            shared = normalize(self._method.text_features({CONTEXT: tensors[CONTEXT]}, names), dim=-1)
            terms.append(contrast(self._written, shared, personal, config.contrast_temperature))
        return config.contrast_weight * torch.stack(terms)


def contrast(written: Tensor, shared: Tensor, personal: Tensor, temperature: float) -> Tensor:
    """ℓ of FedPGP as a scalar: the mean over classes of -log( e^{p/t} / (e^{p/t} + e^{m/t}) ).

    Args:
        written: (C, e) unit embeddings of hand-written prompts.
        shared: (C, e) unit embeddings under the shared prompt.
        personal: (C, e) unit embeddings under the personal prompt.
        temperature: t.
    """
    positive, negative = (written * shared).sum(dim=-1), (shared * personal).sum(dim=-1)
    # -log(e^a / (e^a + e^b)) = log(1 + e^{b - a}).
    return softplus((negative - positive) / temperature).mean()
