"""PromptFL: learned context vectors in front of the class name (Guo et al., IEEE TMC 2023, arXiv 2208.11625).

The prompt is `[start] v_1 … v_n {class}. [end]` with one set of vectors v for all classes; they are the only thing that
is trained and sent. Both towers stay frozen, so a client keeps the final features of its images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from feddtl.config import TrainingSettings
from feddtl.methods.base import Method
from feddtl.methods.contexts import NAME_PROMPT, initial_contexts, note_on_positions
from feddtl.methods.promptfl.settings import PromptFLSettings
from feddtl.methods.task import Task
from feddtl.models.lora import Tensors
from feddtl.models.text_tower import TextTower, prompts_for

CONTEXT = "context"


class PromptFL(Method):
    """Federated averaging of a text prompt."""

    Settings = PromptFLSettings
    settings: PromptFLSettings
    learns_prompts: ClassVar[bool] = True

    def __init__(self, task: Task, settings: Any, training: TrainingSettings) -> None:
        super().__init__(task, settings, training)
        self._initial = initial_contexts(task, settings, "promptfl")

    def initial_shared(self) -> Tensors:
        """v, (n, d): see `initial_contexts`."""
        return {CONTEXT: self._initial.clone()}

    def notes(self) -> list[str]:
        """Whether prompts are longer than the text tower knows."""
        return [note] if (note := note_on_positions(self.task, self.settings, len(self._initial))) else []

    def text_features(self, tensors: Mapping[str, Tensor], class_names: Sequence[str]) -> Tensor:
        """Projected features (C, e) of the names behind the context."""
        return prompted_features(self.clip.text, tensors[CONTEXT], class_names)


def prompted_features(tower: TextTower, context: Tensor, class_names: Sequence[str]) -> Tensor:
    """Projected features (C, e) of `[start] context {class}. [end]`, with context vectors (n, d)."""
    hidden, positions = tower.with_context(prompts_for(class_names, NAME_PROMPT), context)
    return tower.features(hidden, positions, 0)
