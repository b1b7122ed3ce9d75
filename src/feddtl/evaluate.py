"""Accuracy of a model on base classes, novel classes and each client's own share (protocol: docs/explanation)."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field

import torch
from torch import Tensor

from feddtl.methods.classifier import Classifier
from feddtl.models.activations import Activations
from feddtl.records import SCORES


@dataclass(frozen=True)
class TestImages:
    """Test images of one class list, already through the frozen blocks.

    Attributes:
        activations: Of N images, at the method's first changing image block.
        labels: (N,) indices into `class_names`.
        domains: (N,) domain ids.
        class_names: The candidate classes.
    """

    __test__ = False  # not a test class, whatever its name

    activations: Activations
    labels: Tensor
    domains: Tensor
    class_names: tuple[str, ...]

    def select(self, indices: Tensor) -> TestImages:
        """The images at these indices, with the same classes; activations are not copied."""
        chosen = self.activations.select(indices)
        return TestImages(chosen, self.labels[indices], self.domains[indices], self.class_names)


@dataclass(frozen=True)
class EvaluationSets:
    """The images to score.

    Attributes:
        base: Test images of the base classes.
        novel: Test images of the novel classes; may be empty.
        shares: Per client, indices into `base` of its own share.
        domain_names: Name per domain id.
        novel_shares: The same into `novel`; empty where novel images belong to no client.
    """

    base: TestImages
    novel: TestImages
    shares: tuple[Tensor, ...]
    domain_names: tuple[str, ...]
    novel_shares: tuple[Tensor, ...] = ()

    @property
    def on_clients(self) -> bool:
        """Whether the test images are on the clients, with none here."""
        return not len(self.base.labels)

    @property
    def each_has_own(self) -> bool:
        """Whether each client has test images of its own, of base and novel classes, as at a site."""
        return bool(self.novel_shares)

    def of(self, client: int) -> tuple[TestImages, TestImages]:
        """A client's own test images of base and of novel classes."""
        novel = self.novel_shares[client] if self.each_has_own else torch.empty(0, dtype=torch.long)
        return self.base.select(self.shares[client]), self.novel.select(novel)

    @property
    def labels(self) -> Tensor:
        """(N,) of base, then novel images: indices into the base class names followed by the novel ones."""
        return torch.cat([self.base.labels, self.novel.labels + len(self.base.class_names)])

    @property
    def domains(self) -> Tensor:
        """(N,) domain ids of base, then novel images."""
        return torch.cat([self.base.domains, self.novel.domains])

    @property
    def owners(self) -> Tensor:
        """(N,) client whose share contains the base image, -1 for none; novel images are in no share."""
        owners = torch.full((len(self.labels),), -1)
        for client, share in enumerate(self.shares):
            owners[share] = client
        return owners


@dataclass(frozen=True)
class Scores:
    """Accuracies in percent; NaN if there was no image to score.

    Attributes:
        local: Mean over clients, each model on its own share of the base test images, over all base classes.
        base: Base test images, over the base classes.
        novel: Novel test images, over the novel classes.
        domains: (base, novel) by domain name, if there are several.
    """

    local: float
    base: float
    novel: float
    domains: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def harmonic_mean(self) -> float:
        """2 · base · novel / (base + novel)."""
        return harmonic_mean(self.base, self.novel)

    def as_dict(self) -> dict[str, float]:
        """The four headline numbers."""
        return {key: getattr(self, key) for key in SCORES}


def harmonic_mean(base: float, novel: float) -> float:
    """2ab / (a + b); 0 if both are 0."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Means of base and novel over the scored models; the harmonic mean is that of the means."""
    return Scores(math.nan, mean([s.base for s in scores]), mean([s.novel for s in scores]))


def mean(values: Sequence[float]) -> float:
    """Mean of finite values; NaN for none."""
    kept = [value for value in values if not math.isnan(value)]
    return sum(kept) / len(kept) if kept else math.nan


@dataclass(frozen=True)
class HitCounts:
    """Correct predictions on a client's own test images; clients send these counts instead of images.

    Attributes:
        base: Correct predictions for images of base classes, among the base classes.
        base_images: Images of base classes.
        novel: Correct predictions for images of novel classes, among the novel classes.
        novel_images: Images of novel classes.
    """

    base: int
    base_images: int
    novel: int = 0
    novel_images: int = 0

    def __add__(self, other: HitCounts) -> HitCounts:
        """The sum of both counts."""
        return HitCounts(*map(operator.add, astuple(self), astuple(other)))

    @property
    def images(self) -> int:
        """All images."""
        return self.base_images + self.novel_images

    @property
    def scores(self) -> Scores:
        """The same in percent; `local` uses the base images."""
        base = percentage(self.base, self.base_images)
        return Scores(base, base, percentage(self.novel, self.novel_images))


@dataclass(frozen=True)
class Predictions:
    """Predictions of one model for N test images: the base images, then the novel ones.

    Attributes:
        among_half: (N,) predictions among the classes of the image's own half, as for the accuracies.
        among_all: (N,) predictions among all classes.

    Both are indices into the base class names followed by the novel ones.
    """

    among_half: Tensor
    among_all: Tensor


@dataclass(frozen=True)
class ClientHits:
    """Hits of the clients' own models on N test images: the base images, then the novel ones.

    Attributes:
        local: (N,) 1 if the model of the client whose share contains the base image is right, 0 if it is wrong, -1 if
            no such model was scored.
        right: (N,) number of clients whose models are right, among the classes of the image's half.
        scored: (N,) number of clients whose models were scored on the image; 0 in rounds that score shares alone.
    """

    local: Tensor
    right: Tensor
    scored: Tensor


@torch.no_grad()
def predict(classifier: Classifier, activations: Activations, class_names: Sequence[str]) -> Tensor:
    """(N,) predicted indices into `class_names`."""
    if not len(activations):
        return torch.empty(0, dtype=torch.long)
    [predicted] = _nearest(classifier, activations, [classifier.text_embeddings(class_names)])
    return predicted


@torch.no_grad()
def predict_test_images(classifier: Classifier, sets: EvaluationSets) -> Predictions:
    """Predictions of one model for all base and novel test images; every image is encoded once."""
    halves = [half for half in (sets.base, sets.novel) if half.class_names]
    texts = [classifier.text_embeddings(half.class_names) for half in halves]
    among_half, among_all, first = [], [], 0
    for half, text in zip(halves, texts, strict=True):
        own, any_class = _nearest(classifier, half.activations, [text, torch.cat(texts)])
        among_half.append(first + own)
        among_all.append(any_class)
        first += len(half.class_names)
    return Predictions(torch.cat(among_half), torch.cat(among_all))


def _nearest(classifier: Classifier, activations: Activations, texts: Sequence[Tensor]) -> list[Tensor]:
    """For each matrix of text embeddings (C, e), the (N,) row closest to each image."""
    nearest: list[list[Tensor]] = [[torch.empty(0, dtype=torch.long)] for _ in texts]
    for indices in torch.split(torch.arange(len(activations)), classifier.images_per_pass):
        if not len(indices):
            break
        features = classifier.image_features(activations.rows(indices).to(texts[0].device))
        for found, text in zip(nearest, texts, strict=True):
            found.append((features @ text.T).argmax(dim=-1).cpu())
    return [torch.cat(found) for found in nearest]


def correct(classifier: Classifier, images: TestImages) -> Tensor:
    """(N,) whether each image is classified correctly."""
    return predict(classifier, images.activations, images.class_names) == images.labels


def accuracy(hits: Tensor) -> float:
    """Percentage of hits; NaN without images."""
    return percentage(int(hits.sum()), len(hits))


def percentage(right: int, images: int) -> float:
    """Percentage of correct predictions; NaN without images."""
    return 100.0 * right / images if images else math.nan


def score_global(classifier: Classifier, sets: EvaluationSets, local: float) -> Scores:
    """Base and novel accuracy of one model, also by domain; `local` is passed through."""
    return scores_of(predict_test_images(classifier, sets), sets, local)


def scores_of(predictions: Predictions, sets: EvaluationSets, local: float) -> Scores:
    """`score_global` for known predictions."""
    base, novel = hits_of(predictions, sets)
    domains: dict[str, tuple[float, float]] = {}
    if len(sets.domain_names) > 1:
        for index, name in enumerate(sets.domain_names):
            domains[name] = (accuracy(base[sets.base.domains == index]), accuracy(novel[sets.novel.domains == index]))
    return Scores(local, accuracy(base), accuracy(novel), domains)


def hits_of(predictions: Predictions, sets: EvaluationSets) -> tuple[Tensor, Tensor]:
    """Whether each base image (N_b,) and each novel image (N_n,) is classified correctly among its own half."""
    hits = predictions.among_half == sets.labels
    return hits[: len(sets.base.labels)], hits[len(sets.base.labels) :]


def score_shares(predictions: Predictions, sets: EvaluationSets) -> dict[int, float]:
    """Accuracy of one model on each client's share, by client id, for clients that have test images."""
    counts = enumerate(count_shares(predictions, sets))
    return {client: own.scores.local for client, own in counts if own.base_images}


def count_shares(predictions: Predictions, sets: EvaluationSets) -> tuple[HitCounts, ...]:
    """Counts that each client would report for its share, from known predictions."""
    base, novel = hits_of(predictions, sets)
    nothing = torch.empty(0, dtype=torch.long)
    shares = zip(sets.shares, sets.novel_shares or (nothing,) * len(sets.shares), strict=True)
    return tuple(HitCounts(int(base[b].sum()), len(b), int(novel[n].sum()), len(n)) for b, n in shares)


def count_hits(classifier: Classifier, base: TestImages, novel: TestImages) -> HitCounts:
    """A client's counts on its own test images."""
    right, right_novel = (int(correct(classifier, half).sum()) for half in (base, novel))
    return HitCounts(right, len(base.labels), right_novel, len(novel.labels))


def score_client(predictions: Predictions, sets: EvaluationSets, client: int) -> Scores:
    """All scores of a client's own model; `local` is NaN without test images."""
    hits, _ = hits_of(predictions, sets)
    return scores_of(predictions, sets, accuracy(hits[sets.shares[client]]))


def share_hits(classifiers: Mapping[int, Classifier], sets: EvaluationSets) -> dict[int, Tensor]:
    """Whether each client's model is right on each image of its own share, by client id, for clients with a share."""
    return {
        client: correct(classifiers[client], sets.base.select(sets.shares[client]))
        for client in sorted(classifiers)
        if len(sets.shares[client])
    }


def client_hits(
    on_shares: Mapping[int, Tensor], everywhere: Mapping[int, Predictions], sets: EvaluationSets
) -> ClientHits:
    """The hits of the clients' own models by image.

    Args:
        on_shares: By client, hits on its share.
        everywhere: By client, predictions for all test images.
        sets: The test images.
    """
    local = torch.full((len(sets.labels),), -1)
    for client, hits in on_shares.items():
        local[sets.shares[client]] = hits.long()
    right = torch.zeros(len(sets.labels), dtype=torch.long)
    for predictions in everywhere.values():
        right += predictions.among_half == sets.labels
    return ClientHits(local, right, torch.full_like(right, len(everywhere)))
