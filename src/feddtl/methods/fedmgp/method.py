"""FedMGP: groups of a text and a visual prompt, some of which are shared (Bo et al., NeurIPS 2025, arXiv 2511.00480).

A client has G groups. Group j puts n vectors in front of the class names and n behind the patches; its logits are
s · cos(f_j(x), g_j(c)). A prediction is the mean of the groups' logits (eq. 6). The loss (eqs. 3 to 5) is the mean of
the groups' cross-entropies and λ times a diversity loss: the mean cosine between two groups' features of an image, plus
that between two groups' features of a class.

After training, a client sends s of its text prompts and s of its visual prompts: those that resemble what it received
are likelier (eqs. 7 and 8), in round 1 all are equally likely. The server averages each of the s positions (eq. 9). In
its next round the client replaces what it sent by what it receives.

The paper was read as text without its typeset formulas, and the authors' code, which has no licence, not at all.
Choices:

- The i-th prompt that a client sends is drawn by its likeness to the i-th that it received, among those not yet drawn,
  so that the server averages prompts that are alike. With s = G there is nothing to choose, and prompts keep their
  positions, so that the method is federated averaging, as the paper says.
- The cosine of two prompts is that of their vectors laid end to end.
- All clients start from the same groups, the text prompts from the first n tokens of "a photo of a" plus N(0, σ_0²),
  without which all would stay equal, the visual prompts from N(0, σ_0²). A client that has sent nothing yet replaces
  its first s.
- The diversity loss is a mean over pairs, images and classes, so that λ does not depend on their numbers. It is the
  cosine of eq. 4 and not the "L1" of the paper's table 16, which has no formula.
- The global model has the s shared text prompts and, in their order, the s shared visual prompts. A client's own model
  is scored as it was trained, before the server's prompts come back.
- Visual prompts are at the input of the first block alone, as the paper's number of parameters says; they pass the norm
  behind the embeddings, as patches do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from feddtl.config import TrainingSettings
from feddtl.methods.base import Method
from feddtl.methods.contexts import NAME_PROMPT
from feddtl.methods.fedmgp.settings import FedMGPSettings
from feddtl.methods.task import Task
from feddtl.models.lora import Tensors
from feddtl.models.text_tower import prompts_for
from feddtl.seeding import torch_generator
from feddtl.training.local import Learner
from feddtl.training.objective import Objective, Supervised
from feddtl.training.policy import Microbatch, Policy

KINDS = ("text", "visual")


class FedMGP(Method):
    """Federated averaging of some groups of prompts.

    Shared: `text` (s, n, d_text) and `visual` (s, n, d_image). Personal, if s < G: the other G - s as `own.text` and
    `own.visual`, and `groups.text` and `groups.visual` (G,), the group of each prompt, shared ones first.
    """

    Settings = FedMGPSettings
    settings: FedMGPSettings
    learns_prompts: ClassVar[bool] = True

    def __init__(self, task: Task, settings: Any, training: TrainingSettings) -> None:
        super().__init__(task, settings, training)
        self.first_image_block = 0
        self._words = task.clip.text.embed_words(settings.initial_text.strip()).detach().cpu().clone()

    @property
    def images_per_pass(self) -> int:
        """Images that one pass takes, each once per group with the prompts behind its patches."""
        image, config = self.clip.image, self.settings
        return max(1, image.stack.sequences_per_pass(image.tokens + config.prompt_length) // config.groups)

    @property
    def feature_width(self) -> int:
        """Width of a client's features: G · e."""
        return self.settings.groups * self.clip.image.feature_width

    def initial_shared(self) -> Tensors:
        """The first s of the initial prompts."""
        return {kind: prompts[: self.settings.shared_groups] for kind, prompts in self._initial_prompts().items()}

    def initial_personal(self, client: int) -> Tensors:
        """The other G - s of the initial prompts, and the groups in order; nothing if all groups are shared."""
        config = self.settings
        if config.shared_groups == config.groups:
            return {}
        tensors: Tensors = {}
        for kind, prompts in self._initial_prompts().items():
            tensors[f"own.{kind}"] = prompts[config.shared_groups :]
            tensors[f"groups.{kind}"] = torch.arange(config.groups)
        return tensors

    def image_features(self, tensors: Mapping[str, Tensor], activations: Tensor) -> Tensor:
        """(B, G · e) features of all groups from the input of block 0, (B, S, d); see `side_by_side`."""
        image, groups = self.clip.image, prompts_by_group(tensors, "visual")
        hidden = torch.cat([image.with_prompts(activations, prompts) for prompts in groups])
        return side_by_side(torch.stack(image.features(hidden, 0).chunk(len(groups))))

    def text_features(self, tensors: Mapping[str, Tensor], class_names: Sequence[str]) -> Tensor:
        """(C, G · e) features of all groups, with the names behind the prompts; see `side_by_side`."""
        text, groups = self.clip.text, prompts_by_group(tensors, "text")
        names = prompts_for(class_names, NAME_PROMPT)
        hidden, positions = zip(*(text.with_context(names, prompts) for prompts in groups), strict=True)
        features = text.features(torch.cat(hidden), torch.cat(positions), 0)
        return side_by_side(torch.stack(features.chunk(len(groups))))

    def supervised_objective(self, policy: Policy, learners: Sequence[Learner]) -> Objective:
        """Cross-entropy of each group, and the diversity loss."""
        return DiverseGroups(policy, learners, self.settings)

    def after_training(self, client: int, round_number: int, tuned: Tensors, received: Mapping[str, Tensor]) -> Tensors:
        """The same prompts, with those in `text` and `visual` that the client sends."""
        config = self.settings
        if config.shared_groups == config.groups:
            return tuned
        tensors: Tensors = {}
        for kind in KINDS:
            prompts = prompts_by_group(tuned, kind)
            scores = similarities(prompts, received[kind]) / config.temperature
            if round_number == 1:  # there are no global prompts of an earlier round
                scores = torch.zeros_like(scores)
            generator = torch_generator(self.task.seed, f"fedmgp/sent-{kind}", client, round_number)
            sent = draw_groups(scores, generator)
            kept = [group for group in range(config.groups) if group not in sent]
            tensors |= {
                kind: prompts[sent],
                f"own.{kind}": prompts[kept],
                f"groups.{kind}": torch.tensor([*sent, *kept]),
            }
        return tensors

    def _initial_prompts(self) -> Tensors:
        """Text prompts (G, n, d_text) and visual prompts (G, n, d_image) of every client."""
        config, widths = self.settings, {"text": self.clip.text.width, "visual": self.clip.image.width}
        prompts = {}
        for kind in KINDS:
            generator = torch_generator(self.task.seed, f"fedmgp/{kind}")
            drawn = torch.randn(config.groups, config.prompt_length, widths[kind], generator=generator)
            prompts[kind] = config.init_std * drawn
        words = self._words[: config.prompt_length]
        prompts["text"][:, : len(words)] += words
        return prompts


class DiverseGroups(Supervised):
    """The mean of the groups' cross-entropies, and λ times the diversity loss of either tower (eqs. 3 to 5)."""

    def __init__(self, policy: Policy, learners: Sequence[Learner], settings: FedMGPSettings) -> None:
        super().__init__(policy, learners)
        self._groups = settings.groups
        self._weight = settings.diversity_weight if settings.groups > 1 else 0.0

    def losses(self, microbatch: Microbatch, features: Tensor, text: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(1/G) Σ_j -log π_j(y|x) and λ times the image's diversity loss; accuracy is that of the mean logits."""
        pairs = zip(features.chunk(self._groups, dim=-1), text.chunk(self._groups, dim=-1), strict=True)
        logits = torch.stack(
            [self.policy.logits(image, normalize(texts, dim=-1), microbatch) for image, texts in pairs]
        )  # (G, R, C)
        labels = self.policy.labels_of(microbatch)
        losses = torch.stack([cross_entropy(own, labels, reduction="none") for own in logits]).mean(dim=0)
        if self._weight:
            losses = losses + self._weight * diversity(by_group(features, self._groups))
        hits = (logits.detach().mean(dim=0).argmax(dim=-1) == labels).to(logits.dtype)
        return losses, {"accuracy": hits}

    def text_term(self, clients: Sequence[Mapping[str, Tensor]], text: Tensor) -> Tensor | None:
        """λ times the mean over the classes of their diversity loss, (parts,)."""
        if not self._weight:
            return None
        return self._weight * diversity(by_group(text, self._groups)).mean(dim=-1)


def prompts_by_group(tensors: Mapping[str, Tensor], kind: str) -> Tensor:
    """Prompts (G, n, d) of a kind in the order of the groups; (s, n, d) where there is no personal part."""
    shared = tensors[kind]
    if f"own.{kind}" not in tensors:
        return shared
    return torch.cat([shared, tensors[f"own.{kind}"]])[tensors[f"groups.{kind}"].argsort()]


def side_by_side(features: Tensor) -> Tensor:
    """The features of G groups, (G, N, e), as one feature, (N, G · e).

    All parts get the mean length, so the cosine of two such features is the mean of the groups' cosines, whatever the
    lengths of a group's features.
    """
    lengths: Tensor = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    return (lengths.mean(dim=0) * normalize(features, dim=-1)).movedim(0, 1).flatten(start_dim=1)


def by_group(features: Tensor, groups: int) -> Tensor:
    """The parts of `side_by_side`: (..., G · e) as (..., G, e)."""
    return features.reshape(*features.shape[:-1], groups, -1)


def diversity(features: Tensor) -> Tensor:
    """Mean cosine (...,) between two of G > 1 groups' features (..., G, e): 1 where all groups agree (eq. 4)."""
    groups = features.shape[-2]
    # Σ_{i≠j} u_i·u_j = ‖Σ u_i‖² - G for unit vectors u.
    squared: Tensor = normalize(features, dim=-1).sum(dim=-2).square().sum(dim=-1)
    return (squared - groups) / (groups * (groups - 1))


def similarities(prompts: Tensor, received: Tensor) -> Tensor:
    """Cosines (s, G) of each received prompt (s, n, d) with each of a client's (G, n, d), in float64 (eq. 7)."""
    return cosine_similarity(received.double().flatten(1)[:, None], prompts.double().flatten(1)[None], dim=-1)


def draw_groups(scores: Tensor, generator: torch.Generator) -> list[int]:
    """One group for each row of scores (s, G), each group at most once: with probability ∝ e^score among those that no
    row above has drawn (eq. 8)."""
    drawn: list[int] = []
    for row in scores:
        left = row.clone()
        left[drawn] = -torch.inf
        drawn.append(int(torch.multinomial(left.softmax(dim=0), 1, generator=generator)))
    return drawn
