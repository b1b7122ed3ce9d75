"""Federated accuracy: a model as the clients score it, with the images behind each number and who is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from feddtl.record_fields import checked, from_file, known_fields
from feddtl.storage import without_nan
from feddtl.units import NUMBERED, ClientNames

OPTIONAL = ("failures", "missing", "counts", "all_base_images", "all_novel_images")
"""Fields of a federated accuracy that its file has only where there is something to say."""


@dataclass(frozen=True)
class FederatedAccuracy:
    """The global model as the clients score it, each on its own test images.

    Attributes:
        base: Accuracy in percent over the base test images of all clients that scored it; NaN for none.
        novel: The same over their novel test images.
        harmonic_mean: Of both.
        base_images: Number of base test images.
        novel_images: Number of novel test images.
        clients: Which clients scored it.
        failures: By client, why it did not.
        missing: Clients that did not; this field and those below only where the clients alone have test images.
        counts: By client, its hits and images; keys as in `feddtl.evaluate.HitCounts`.
        all_base_images: Base test images of all clients; None where none is missing, or the number is unknown.
        all_novel_images: The same for the novel ones.
    """

    base: float
    novel: float
    harmonic_mean: float
    base_images: int
    novel_images: int
    clients: Sequence[int]
    failures: Mapping[int, str] = field(default_factory=dict)
    missing: Sequence[int] = ()
    counts: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    all_base_images: int | None = None
    all_novel_images: int | None = None

    @property
    def scores(self) -> dict[str, float]:
        """Base, novel and harmonic mean by name."""
        return {"base": self.base, "novel": self.novel, "harmonic_mean": self.harmonic_mean}

    @property
    def images(self) -> str:
        """'52 of 78 base and 40 of 60 novel images'; the number of all images only where some are missing."""
        halves = {"base": (self.base_images, self.all_base_images), "novel": (self.novel_images, self.all_novel_images)}
        texts = [_part(scored, of_all, half) for half, (scored, of_all) in halves.items() if scored or of_all]
        return f"{' and '.join(texts) or 'no'} images"

    def coverage(self, names: ClientNames = NUMBERED) -> str:
        """The images behind the scores, and who is missing: '52 of 78 base images; client 3 missing'."""
        return f"{self.images}; {names.all_of(self.missing)} missing" if self.missing else self.images

    def to_dict(self) -> dict[str, Any]:
        """As in a file; without failures, missing clients and counts where there are none."""
        return {key: without_nan(value) for key, value in vars(self).items() if value or key not in OPTIONAL}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FederatedAccuracy:
        """What `to_dict` gave. Raises TypeError or ValueError for anything else."""
        found: FederatedAccuracy = checked(cls(**known_fields(cls, from_file(values))))
        return found


def _part(scored: int, of_all: int | None, half: str) -> str:
    return f"{scored} {half}" if of_all is None else f"{scored} of {of_all} {half}"
