"""What a stage of local training minimises, image by image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from feddtl.training.local import Batch, Learner
from feddtl.training.penalties import Penalty
from feddtl.training.policy import Microbatch, Policy


class Objective(ABC):
    """What a stage minimises, image by image.

    Args:
        policy: The model on the clients' images.
        learners: One per client of the policy, in its order.

    Attributes:
        penalties: Terms on a client's tensors that are added to its loss; none by default.
    """

    def __init__(self, policy: Policy, learners: Sequence[Learner]) -> None:
        self.policy = policy
        self.penalties: Sequence[Penalty] = ()
        self.learners = learners

    @abstractmethod
    def losses(self, microbatch: Microbatch, features: Tensor, text: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (R,) of each image and its metrics, (R,) each, without gradients.

        Args:
            microbatch: Which images.
            features: (R, e) projected features.
            text: (parts, C, e) or (1, C, e) unit rows.
        """

    def text_term(self, clients: Sequence[Mapping[str, Tensor]], text: Tensor) -> Tensor | None:
        """A term of each part's loss that depends on the trained texts alone, (parts,); None if there is none.

        Args:
            clients: Tensors of each part.
            text: (parts, C, e) or (1, C, e) unit rows.
        """
        return None

    def before_epoch(self, learner: int, epoch: int) -> None:
        """Called before each epoch of each learner."""
        return

    def before_step(self, batches: Sequence[Batch]) -> None:
        """Called before each step."""
        return

    def step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Gradients of each learner's mean loss, pass by pass; see `local.StepFunction`."""
        self.before_step(batches)
        tensors = [self.learners[batch.learner].parameters for batch in batches]
        text = self.policy.text_embeddings(tensors)
        # Trained text is encoded once a step: passes add up its gradient, which then goes back at once.
        anchor = text.detach().requires_grad_(text.requires_grad)
        sums: dict[str, Tensor] = {}
        for microbatch in self.policy.microbatches(batches):
            losses, metrics = self.losses(microbatch, self.policy.features(tensors, microbatch), anchor)
            parts = microbatch.parts.to(losses.device, non_blocking=True)
            self._shares(batches, microbatch, losses).sum().backward()  # type: ignore[no-untyped-call]
            for name, values in {**metrics, "loss": losses.detach()}.items():
                zeros = torch.zeros(len(batches), device=values.device, dtype=values.dtype)
                sums.setdefault(name, zeros).index_add_(0, parts, values)
        # The gradients of the images' losses and of the term go back through the text in one pass.
        roots: list[tuple[Tensor, Tensor | None]] = [(text, anchor.grad)] if text.requires_grad else []
        if (term := self.text_term(tensors, text)) is not None:
            roots.append((term.sum(), None))
            _add_term(sums, "text_term", term, batches)
        if self.penalties:
            total = torch.stack([torch.stack([penalty(own) for penalty in self.penalties]).sum() for own in tensors])
            roots.append((total.sum(), None))
            _add_term(sums, "penalty", total, batches)
        if roots:
            torch.autograd.backward([root for root, _ in roots], [gradient for _, gradient in roots])
        return sums

    @staticmethod
    def _shares(batches: Sequence[Batch], microbatch: Microbatch, losses: Tensor) -> Tensor:
        """Each part's sum of loss / B, so that its images add up to their mean whatever passes they go through."""
        sizes = [len(batch.indices) for batch in batches[microbatch.first : microbatch.first + len(microbatch.counts)]]
        split = torch.split(losses, microbatch.counts)
        return torch.stack([share.sum() / size for share, size in zip(split, sizes, strict=True)])


def _add_term(sums: dict[str, Tensor], name: str, term: Tensor, batches: Sequence[Batch]) -> None:
    """Count a term of each part's mean loss, (parts,), once for each of its images."""
    sums[name] = term.detach() * torch.tensor([len(batch.indices) for batch in batches], device=term.device)
    sums["loss"] = sums["loss"] + sums[name]


class Supervised(Objective):
    """The SFT stage: cross-entropy (FedDTL §3)."""

    def losses(self, microbatch: Microbatch, features: Tensor, text: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """-log π(y|x)."""
        logits = self.policy.logits(features, text, microbatch)
        labels = self.policy.labels_of(microbatch)
        hits = (logits.detach().argmax(dim=-1) == labels).to(logits.dtype)
        return cross_entropy(logits, labels, reduction="none"), {"accuracy": hits}
