"""Training of a CLIP on images in memory: its state, its steps, its checkpoints, its accuracy."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPModel

from feddtl.errors import RunError
from feddtl.seeding import torch_generator
from feddtl.storage import write_atomic
from pretraining.captions import Captions
from pretraining.fitting import build_optimizer, contrastive_loss, descend
from pretraining.folder import normalise
from pretraining.images import Pixels
from pretraining.views import random_views

LONGEST_WARMUP = 500
# Steps over which the weights are averaged: one twentieth of the training, at most 1,000.
AVERAGED_SHARE, LONGEST_AVERAGE = 20, 1000
IMAGES_PER_PASS = 500


class Training:
    """A model, its averaged weights and its optimiser, at some step.

    The random numbers of a step depend only on the seed and its number, so a resumed training gives the same result.

    Args:
        model: The model on the training device; changed in place.
        captions: Captions of the classes of `pixels`, on the same device.
        pixels: Training images.
        batch_size: Images per step; the remainder of an epoch is skipped.
        steps: Total number of steps.
        peak_rate: Learning rate at the end of the warm-up.
        seed: Seed of order, views and wordings.
    """

    def __init__(
        self,
        model: CLIPModel,
        captions: Captions,
        pixels: Pixels,
        *,
        batch_size: int,
        steps: int,
        peak_rate: float,
        seed: int,
    ) -> None:
        self.model = model
        self.steps = steps
        self.done = 0
        self.seconds = 0.0
        self._captions = captions
        self._images, self._labels = on_device(pixels, model.device)
        self.batch_size = batch_size
        self._seed = seed
        self._optimizer, self._schedule = build_optimizer(
            model, steps, peak_rate=peak_rate, longest_warmup=LONGEST_WARMUP
        )
        span = max(2, min(LONGEST_AVERAGE, steps // AVERAGED_SHARE))
        self._averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / span))  # type: ignore[no-untyped-call]

    @property
    def averaged(self) -> CLIPModel:
        """The model with the exponential moving average of the weights of all steps."""
        return cast(CLIPModel, self._averaged.module)

    def step(self) -> Tensor:
        """One update on the next batch; returns its loss, a scalar on the device."""
        self.model.train()
        at = self._batch()
        views = random_views(self._images[at], torch_generator(self._seed, "pretrain views", self.done))
        ids, mask = self._captions.one_each(torch_generator(self._seed, "pretrain wordings", self.done))
        loss = contrastive_loss(similarities(self.model, views, ids, mask), self._labels[at])
        descend(self.model, loss, self._optimizer, self._schedule)
        self._averaged.update_parameters(self.model)
        self.done += 1
        return loss.detach()

    def _batch(self) -> Tensor:
        """(B,) positions of the images of the next step, in the order of its epoch."""
        epoch, number = divmod(self.done, len(self._labels) // self.batch_size)
        order = epoch_order(len(self._labels), self._seed, epoch)
        return order[number * self.batch_size :][: self.batch_size].to(self._labels.device)

    def save(self, path: Path, settings: Mapping[str, object]) -> None:
        """Write a checkpoint atomically.

        Args:
            path: File to write or replace.
            settings: Settings that the steps depend on; `load` refuses a checkpoint with different ones.
        """
        content = io.BytesIO()
        state = {
            "settings": dict(settings),
            "done": self.done,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "averaged": self._averaged.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }
        torch.save(state, content)
        write_atomic(path, content.getvalue())

    def load(self, path: Path, settings: Mapping[str, object]) -> None:
        """Continue from a checkpoint.

        Raises:
            RunError: It does not exist, cannot be read, or belongs to different settings.
        """
        state = read_checkpoint(path, self._labels.device)
        for name, value in settings.items():
            if (found := state["settings"].get(name)) != value:
                raise RunError(
                    f"The checkpoint {path} is of a training with {name} = {found!r}, not {value!r}.",
                    "Use the flags and images of that training, or remove the checkpoint to start again.",
                )
        self.model.load_state_dict(state["model"])
        self._averaged.load_state_dict(state["averaged"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.done, self.seconds = state["done"], state["seconds"]


# One order is used for all steps of its epoch.
@lru_cache(maxsize=1)
def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """(count,) positions in the order of an epoch."""
    return torch.randperm(count, generator=torch_generator(seed, "pretrain order", epoch))


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint of `Training.save`. Raises RunError if it cannot be read."""
    if not path.is_file():
        raise RunError(f"There is no checkpoint {path}.", "Omit --resume to start again.")
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    # torch.load passes on errors of zip, pickle and the file system.
    except Exception as error:
        raise RunError(f"Cannot read the checkpoint {path}: {error}", "Remove it to start again.") from None
    return state


def on_device(pixels: Pixels, device: torch.device) -> tuple[Tensor, Tensor]:
    """(N, 3, 32, 32) bytes and (N,) labels on a device."""
    images = torch.from_numpy(pixels.images).permute(0, 3, 1, 2).contiguous()
    return images.to(device), torch.from_numpy(pixels.labels).to(device)


def similarities(model: CLIPModel, images: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """(B, C) scaled cosine similarities; the towers compute in bfloat16 on a CUDA GPU, the rest in float32.

    Args:
        model: CLIP.
        images: (B, 3, H, W) values from 0 to 1.
        ids: (C, S) token ids.
        mask: (C, S) 1 for a token, 0 for padding.
    """
    device = images.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        image = model.get_image_features(pixel_values=normalise(images)).pooler_output
        text = model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
    image, text = (functional.normalize(features.float(), dim=-1) for features in (image, text))
    return model.logit_scale.exp() * image @ text.t()


@torch.no_grad()
def accuracy(model: CLIPModel, prompts: Captions, pixels: Pixels) -> float:
    """Percent of images whose own class has the most similar prompt.

    Args:
        model: CLIP.
        prompts: One wording of the class names of `pixels`.
        pixels: Images without augmentation.
    """
    model.eval()  # type: ignore[no-untyped-call]
    images, labels = on_device(pixels, model.device)
    right = torch.zeros((), device=labels.device)
    parts = (torch.split(tensor, IMAGES_PER_PASS) for tensor in (images, labels))
    for part, truth in zip(*parts, strict=True):
        found = similarities(model, part.float() / 255, prompts.ids[0], prompts.mask[0]).argmax(-1)
        right += (found == truth).sum()
    return 100 * right.item() / len(labels)
