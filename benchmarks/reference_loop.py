"""A plain FedDTL with transformers and peft: the opponent of the speed comparison.

The same work as `feddtl`: same images, rounds, clients, epochs, batches, losses and evaluation, and, given the
same random draws, the same adapters (tests/test_reference_loop.py). Images are preprocessed once and kept in memory.
Every step is a full forward pass `model(pixel_values)`; all clients share one image tower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoTokenizer, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from benchmarks.reference_parts import (
    Adapter,
    Compute,
    Draws,
    Federation,
    Images,
    Settings,
    State,
    at_actions,
    average,
    bounded_exp,
    mixed,
    seeded,
)
from benchmarks.reference_tower import Tower


class Client:
    """Local training; one image tower for all clients."""

    def __init__(self, folder: Path, compute: Compute, settings: Settings, scale: float) -> None:
        self.tower = Tower(CLIPVisionModelWithProjection, "vision_model", folder, compute, settings)
        self.tower.add("received")
        self.tower.add("reference", ranks=2)
        self.compute, self.settings, self.scale = compute, settings, scale

    def features(self, pixels: Tensor) -> Tensor:
        """Projected features (B, e)."""
        with self.compute.context():
            embeds: Tensor = self.tower.model(pixel_values=pixels).image_embeds
        return embeds.to(self.compute.joint_dtype)

    def logits(self, features: Tensor, text: Tensor) -> Tensor:
        """s · cos."""
        return self.scale * normalize(features, dim=-1) @ text.T

    @torch.no_grad()
    def embed(self, pixels: Tensor) -> Tensor:
        """Unit embeddings (N, e), in large batches."""
        parts = torch.split(pixels, self.compute.evaluation_batch)
        return normalize(torch.cat([self.features(part) for part in parts]), dim=-1)

    def fit(
        self, stage: str, image: Adapter, anchor: Adapter, text: Tensor, images: Images, draws: Draws, *key: int
    ) -> tuple[Adapter, Tensor, float]:
        """A client's round, 'sft' or 'rl'; `key` is (client, round).

        Returns:
            The tuned adapter, unit embeddings of the training images under it, and the mean loss.
        """
        self.tower.set(image)
        optimizer, order = self.tower.optimizer(), draws("batch-order", *key)
        if stage == "rl":
            rl_loss = self._start_rl(image, anchor, text, images, draws("rollout-noise", *key))
        epochs = self.settings.sft_epochs if stage == "sft" else self.settings.rl_epochs
        total = torch.zeros((), device=self.compute.device, dtype=self.compute.joint_dtype)
        for _ in range(epochs):
            shuffled = torch.randperm(len(images.labels), generator=order).to(self.compute.device)
            for batch in torch.split(shuffled, self.settings.batch_size):
                if stage == "sft":
                    loss = cross_entropy(self.logits(self.features(images.pixels[batch]), text), images.labels[batch])
                else:
                    loss = rl_loss(batch)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += loss.detach() * len(batch)
        return self.tower.get(), self.embed(images.pixels), float(total) / (len(images.labels) * epochs)

    def _start_rl(
        self, image: Adapter, anchor: Adapter, text: Tensor, images: Images, generator: torch.Generator
    ) -> Callable[[Tensor], Tensor]:
        """Load the frozen roles, draw the round's noise, and return the loss of a batch."""
        s = self.settings
        self.tower.set(image, "received")
        self.tower.set(mixed(anchor, image, s.anchor_weight), "reference")
        noise = s.noise_std * torch.randn((s.group_size, len(images.labels), text.shape[1]), generator=generator)
        noise = noise.to(self.compute.device)

        def frozen(batch: Tensor) -> tuple[Tensor, ...]:
            rollout = self._roll_out(images.pixels[batch], images.labels[batch], noise[:, batch], text)
            return (*rollout, self._reference(images.pixels[batch], text, rollout[0]))

        if s.roles == "once":
            everything = torch.arange(len(images.labels), device=self.compute.device)
            parts = [frozen(part) for part in torch.split(everything, self.compute.evaluation_batch)]
            kept = [torch.cat(columns, dim=1) for columns in zip(*parts, strict=True)]

        def loss(batch: Tensor) -> Tensor:
            constants = [tensor[:, batch] for tensor in kept] if s.roles == "once" else frozen(batch)
            return self._rl_loss(images.pixels[batch], text, *constants)

        return loss

    @torch.no_grad()
    def _roll_out(self, pixels: Tensor, labels: Tensor, noise: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, advantages and old log-probabilities of the received model, each (G, B)."""
        self.tower.use("received")
        passes = len(noise) if self.settings.roles == "per-sample" else 1
        features = torch.stack([self.features(pixels) for _ in range(passes)])
        self.tower.use("policy")
        actions = self.logits(features + noise, text).argmax(dim=-1)
        rewards = (actions == labels).to(features.dtype)
        advantages = (rewards - rewards.mean(dim=0)) / (rewards.std(dim=0, correction=0) + 1e-4)
        return actions, advantages, at_actions(self.logits(features[0], text), actions)

    @torch.no_grad()
    def _reference(self, pixels: Tensor, text: Tensor, actions: Tensor) -> Tensor:
        """log π_ref(a|x), (G, B)."""
        self.tower.use("reference")
        features = self.features(pixels)
        self.tower.use("policy")
        return at_actions(self.logits(features, text), actions)

    def _rl_loss(
        self, pixels: Tensor, text: Tensor, actions: Tensor, advantages: Tensor, old: Tensor, reference: Tensor
    ) -> Tensor:
        """Clipped objective with the KL estimator exp(q) - q - 1."""
        s = self.settings
        log_probs = at_actions(self.logits(self.features(pixels), text), actions)
        ratio = bounded_exp(log_probs - old)
        gain = torch.minimum(ratio * advantages, ratio.clamp(1 - s.clip, 1 + s.clip) * advantages)
        q = reference - log_probs
        return (s.kl_weight * (bounded_exp(q) - q - 1) - gain).mean()


class Server:
    """Averaging, and training of the text tower on what clients upload."""

    def __init__(self, folder: Path, compute: Compute, settings: Settings, scale: float) -> None:
        self.tower = Tower(CLIPTextModelWithProjection, "text_model", folder, compute, settings)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.compute, self.settings, self.scale = compute, settings, scale

    def tokenize(self, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """Token ids and mask, padded as asked."""
        length = self.tower.model.config.max_position_embeddings if self.compute.padding == "max_length" else None
        tokens = self.tokenizer(list(prompts), padding=self.compute.padding, max_length=length, return_tensors="pt")
        return {name: tokens[name].to(self.compute.device) for name in ("input_ids", "attention_mask")}

    def encode(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Unit text embeddings (C, e)."""
        with self.compute.context():
            embeds: Tensor = self.tower.model(**tokens).text_embeds
        return normalize(embeds.to(self.compute.joint_dtype), dim=-1)

    def train(self, text: Adapter, tokens: Mapping[str, Tensor], images: Images, order: torch.Generator) -> Adapter:
        """Cross-entropy of uploaded embeddings, stored as `pixels` (N, e), against the prompts."""
        self.tower.set(text)
        optimizer = self.tower.optimizer()
        for _ in range(self.settings.server_epochs):
            shuffled = torch.randperm(len(images.labels), generator=order).to(self.compute.device)
            for batch in torch.split(shuffled, self.settings.batch_size):
                logits = self.scale * images.pixels[batch] @ self.encode(tokens).T
                loss = cross_entropy(logits, images.labels[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return self.tower.get()


class ReferenceLoop:
    """All rounds in one process.

    Args:
        folder: CLIP in Hugging Face format.
        federation: Everyone's images.
        settings: Rounds and hyperparameters.
        image: How the image tower is run.
        text: How the text tower is run.
        draws: Where randomness comes from.
    """

    def __init__(
        self,
        folder: Path,
        federation: Federation,
        settings: Settings,
        image: Compute,
        text: Compute,
        draws: Draws | None = None,
    ) -> None:
        with safe_open(folder / "model.safetensors", "pt") as file:
            scale = float(file.get_tensor("logit_scale").exp())
        self.settings, self.draws = settings, draws or seeded(settings.seed)
        self.client = Client(folder, image, settings, scale)
        self.server = Server(folder, text, settings, scale)
        self.clients = [images.to(image) for images in federation.clients]
        self.base, self.novel = federation.test_base.to(image), federation.test_novel.to(image)
        self.shares = [positions.to(image.device) for positions in federation.shares]
        self.base_tokens = self.server.tokenize(federation.base_prompts)
        self.novel_tokens = self.server.tokenize(federation.novel_prompts)

    def start(self) -> State:
        """Fresh adapters; B = 0, so the anchor is the pre-trained tower."""
        image = self.client.tower.get()
        return State(image, self.server.tower.get(), image)

    def stage(self, number: int) -> str:
        """Stage of a round, from 1."""
        return "sft" if number <= self.settings.sft_rounds else "rl"

    def local(self, state: State, text: Tensor, number: int) -> list[tuple[Adapter, Tensor, float]]:
        """Every client's round."""
        return [
            self.client.fit(self.stage(number), state.image, state.anchor, text, images, self.draws, client, number)
            for client, images in enumerate(self.clients)
        ]

    @torch.no_grad()
    def broadcast(self, state: State) -> Tensor:
        """Text embeddings T of the base classes."""
        self.server.tower.set(state.text)
        return self.server.encode(self.base_tokens)

    def aggregate(self, state: State, results: Sequence[tuple[Adapter, Tensor, float]], number: int) -> State:
        """Weighted average of the image adapters, then text training."""
        image = average([adapter for adapter, _, _ in results], [len(images.labels) for images in self.clients])
        labels = torch.cat([images.labels for images in self.clients])
        uploaded = Images(torch.cat([embeddings for _, embeddings, _ in results]), labels)
        text = self.server.train(state.text, self.base_tokens, uploaded, self.draws("server-batch-order", number))
        return State(image, text, image if self.stage(number) == "sft" else state.anchor)

    @torch.no_grad()
    def evaluate(self, state: State, own: Sequence[Adapter], text: Tensor) -> dict[str, float]:
        """Global model on base and novel, each client's model on its share against the text it was sent."""
        local = [
            self._accuracy(adapter, Images(self.base.pixels[share], self.base.labels[share]), text)
            for adapter, share in zip(own, self.shares, strict=True)
            if len(share)
        ]
        self.server.tower.set(state.text)
        base = self._accuracy(state.image, self.base, self.server.encode(self.base_tokens))
        novel = self._accuracy(state.image, self.novel, self.server.encode(self.novel_tokens))
        return {"local": sum(local) / len(local), "base": base, "novel": novel}

    def _accuracy(self, adapter: Adapter, images: Images, text: Tensor) -> float:
        self.client.tower.set(adapter)
        predicted = (self.client.embed(images.pixels) @ text.T).argmax(dim=-1)
        return 100 * float((predicted == images.labels).float().mean())

    def run(self) -> tuple[State, list[dict[str, float]]]:
        """All rounds; the final state and a record per round."""
        state, records = self.start(), []
        for number in range(1, self.settings.rounds + 1):
            begun = time.perf_counter()
            text = self.broadcast(state)
            results = self.local(state, text, number)
            state = self.aggregate(state, results, number)
            scores = self.evaluate(state, [adapter for adapter, _, _ in results], text)
            records.append({"round": number, **scores, "seconds": time.perf_counter() - begun})
        return state, records
