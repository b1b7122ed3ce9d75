"""The rounds of FedDTL and FedLoRA a second time, written from the paper and meant to be slow.

Double precision; the whole CLIPModel of transformers at every step, without cached activations; weights
W_0 + s·B·A as dense matrices; every image and every sample of a group by itself; Adam by hand. Shared with the
library are only the names of the factors and where its randomness comes from.
"""

from __future__ import annotations

import copy
import math

import torch
from torch.func import functional_call

from feddtl.seeding import torch_generator


class SlowClip:
    """CLIPModel with low-rank changes in its weights, on one list of prompts, those of one template after another."""

    def __init__(self, clip, prompts, scaling, templates=1):
        self.templates = templates
        self.model = copy.deepcopy(clip.model).double()
        self.tokens = clip.tokenizer(prompts, padding="max_length", return_tensors="pt")
        self.scaling = scaling
        self.scale = self.model.logit_scale.exp().item()

    def image_features(self, factors, pixels):
        pooled = functional_call(
            self.model.vision_model, self._dense(factors, "vision_model"), (), {"pixel_values": pixels}
        ).pooler_output
        return self.model.visual_projection(pooled)

    def text_embeddings(self, factors):
        pooled = functional_call(
            self.model.text_model, self._dense(factors, "text_model"), (), dict(self.tokens)
        ).pooler_output
        features = self.model.text_projection(pooled)
        units = features / features.norm(dim=-1, keepdim=True)
        if self.templates == 1:
            return units
        sums = sum(units[start : start + len(units) // self.templates] for start in self._starts(len(units)))
        return sums / sums.norm(dim=-1, keepdim=True)

    def _starts(self, prompts):
        return range(0, prompts, prompts // self.templates)

    def log_policy(self, feature, text):
        """[log π(c|x)] of one feature (e,) as a list of scalars."""
        logits = self.scale * text @ (feature / feature.norm())
        return list(logits - logits.logsumexp(dim=0))

    def _dense(self, factors, part):
        """Changed weights by their name in a part of the model; a factor's group in front of '/' is dropped."""
        products = {}
        for name, b in factors.items():
            if name.endswith(".lora_B.weight"):
                layer = name.removesuffix(".lora_B.weight")
                products[layer.split("/")[-1]] = b @ factors[f"{layer}.lora_A.weight"]
        return {
            f"{layer.removeprefix(part + '.')}.weight": self.model.get_parameter(f"{layer}.weight")
            + self.scaling * product
            for layer, product in products.items()
            if layer.startswith(part)
        }


class Adam:
    """Kingma and Ba 2015, with their β and ε."""

    def __init__(self, parameters, rate):
        self.parameters, self.rate, self.step_count = parameters, rate, 0
        self.first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in parameters.items()}

    def step(self, loss):
        self.step_count += 1
        gradients = torch.autograd.grad(loss, list(self.parameters.values()))
        for (name, parameter), gradient in zip(self.parameters.items(), gradients, strict=True):
            self.first[name] = 0.9 * self.first[name] + 0.1 * gradient
            self.second[name] = 0.999 * self.second[name] + 0.001 * gradient**2
            mean = self.first[name] / (1 - 0.9**self.step_count)
            square = self.second[name] / (1 - 0.999**self.step_count)
            parameter.data -= self.rate * mean / (square.sqrt() + 1e-8)


def leaves(factors):
    return {name: tensor.double().clone().requires_grad_() for name, tensor in factors.items()}


def batches(count, size, generator):
    order = torch.randperm(count, generator=generator).tolist()
    return [order[start : start + size] for start in range(0, count, size)]


def slow_sft(slow, factors, text_of, pixels, labels, experiment, client, round_number):
    """Cross-entropy for T_e epochs; returns the tuned factors and means over the images seen."""
    factors = leaves(factors)
    adam = Adam(factors, experiment.local.learning_rate)
    order = torch_generator(experiment.seed, "batch-order", client, round_number)
    total, hits, seen = 0.0, 0, len(labels) * experiment.local.epochs
    for _ in range(experiment.local.epochs):
        for batch in batches(len(labels), experiment.local.batch_size, order):
            text, loss = text_of(factors), torch.zeros((), dtype=torch.float64)
            for i in batch:
                feature = slow.image_features(factors, pixels[i : i + 1].double())[0]
                log_policy = slow.log_policy(feature, text)
                loss = loss - log_policy[labels[i]] / len(batch)
                hits += log_policy.index(max(log_policy)) == labels[i]
            adam.step(loss)
            total += loss.item() * len(batch)
    return factors, {"loss": total / seen, "accuracy": hits / seen}


def slow_rl(slow, factors, anchor, text_of, pixels, labels, experiment, client, round_number):
    """GRPO for T_e epochs; returns the tuned factors and means over the images seen."""
    config, seed, images = experiment.rl, experiment.seed, range(len(labels))
    pixels = pixels.double()
    received, factors = leaves(factors), leaves(factors)
    anchor = leaves(anchor)
    noise_source = torch_generator(seed, "rollout-noise", client, round_number)
    action_source = torch_generator(seed, "rollout-action", client, round_number)
    order = torch_generator(seed, "batch-order", client, round_number)
    adam = Adam(factors, experiment.local.learning_rate)
    reference = _reference(slow, anchor, received, text_of, pixels, config)

    def roll_out(chosen):
        """By image: actions, advantages and old log-probabilities, at the parameters of now."""
        with torch.no_grad():
            features, text = slow.image_features(factors, pixels[chosen]), text_of(factors)
            automatic = config.noise_std == "auto"
            noise = torch.randn(config.group_size, *features.shape, generator=noise_source).double()
            noise = noise if automatic else config.noise_std * noise
            uniform = torch.rand(config.group_size, len(chosen), len(text), generator=action_source).double()
            drawn = {}
            for position, i in enumerate(chosen):
                z = features[position]
                actions = []
                for j in range(config.group_size):
                    start = z / z.norm() if config.noise_on == "normalized" else z
                    # Automatic: a deviation of s · σ/‖start‖ = 1 logit.
                    size = start.norm() / slow.scale if automatic else 1.0
                    scores = torch.stack(slow.log_policy(start + size * noise[j, position], text))
                    if config.action == "sample":
                        scores = scores - torch.log(-torch.log(uniform[j, position]))
                    actions.append(int(scores.argmax()))
                rewards = [float(action == labels[i]) for action in actions]
                mean = sum(rewards) / len(rewards)
                std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / len(rewards))
                old = slow.log_policy(z, text)
                drawn[i] = actions, [(r - mean) / (std + 1e-4) for r in rewards], [old[a].item() for a in actions]
            return drawn

    drawn, names = {}, ("loss", "policy_objective", "kl", "reward", "mean_ratio", "clip_fraction", "all_equal_groups")
    totals = dict.fromkeys(names, 0.0)
    for epoch in range(config.epochs):
        if config.rollout == "epoch" or (config.rollout == "round" and epoch == 0):
            drawn = roll_out(list(images))
        for batch in batches(len(labels), experiment.local.batch_size, order):
            if config.rollout == "batch":
                drawn = roll_out(batch)
            text, gain, kl = (
                text_of(factors),
                torch.zeros((), dtype=torch.float64),
                torch.zeros((), dtype=torch.float64),
            )
            share = 1 / (len(batch) * config.group_size)
            for i in batch:
                log_policy = slow.log_policy(slow.image_features(factors, pixels[i : i + 1])[0], text)
                for action, advantage, old in zip(*drawn[i], strict=True):
                    ratio = torch.exp(log_policy[action] - old)
                    clipped = min(max(ratio.item(), 1 - config.clip), 1 + config.clip) * advantage
                    gain = gain + share * (ratio * advantage if ratio.item() * advantage <= clipped else clipped)
                    if config.kl == "sampled":
                        q = reference[i][action] - log_policy[action]
                        kl = kl + share * (torch.exp(q) - q - 1)
                    else:
                        pairs = zip(log_policy, reference[i], strict=True)
                        kl = kl + share * sum(torch.exp(p) * (p - r) for p, r in pairs)
                    totals["mean_ratio"] += ratio.item() / config.group_size
                    totals["clip_fraction"] += (abs(ratio.item() - 1) > config.clip) / config.group_size
                    totals["reward"] += float(action == labels[i]) / config.group_size
                totals["all_equal_groups"] += len(set(drawn[i][1])) == 1
            loss = config.kl_weight * kl - gain
            adam.step(loss)
            for name, value in (("loss", loss), ("policy_objective", gain), ("kl", kl)):
                totals[name] += value.item() * len(batch)
    return factors, {name: total / (len(labels) * config.epochs) for name, total in totals.items()}


def _reference(slow, anchor, received, text_of, pixels, config):
    """[[log π_ref(c|x)] by image]: the mix of two sets of LoRA deltas B·A, or of two probability vectors."""
    share = config.anchor_weight

    def log_policies(factors):
        with torch.no_grad():
            text = text_of(factors)
            return [slow.log_policy(feature, text) for feature in slow.image_features(factors, pixels)]

    if config.reference == "probabilities":
        return [
            [torch.log(share * torch.exp(a) + (1 - share) * torch.exp(r)) for a, r in zip(*pair, strict=True)]
            for pair in zip(log_policies(anchor), log_policies(received), strict=True)
        ]
    mixed = {}
    for name in received:
        if name.endswith(".lora_B.weight"):
            a_name = name.replace("lora_B", "lora_A")
            delta = share * anchor[name] @ anchor[a_name] + (1 - share) * received[name] @ received[a_name]
            # Any factorisation of the mixed delta will do: itself times the identity.
            mixed[name], mixed[a_name] = delta, torch.eye(delta.shape[1], dtype=torch.float64)
    return log_policies(mixed)


def slow_text_training(slow, factors, embeddings, labels, experiment, round_number):
    """The server's cross-entropy on uploaded embeddings, in the order of the clients."""
    factors = leaves(factors)
    config = experiment.server
    adam = Adam(factors, config.learning_rate)
    order = torch_generator(experiment.seed, "server-batch-order", round_number)
    for _ in range(config.epochs):
        for batch in batches(len(labels), config.batch_size, order):
            text = slow.text_embeddings(factors)
            loss = sum(-slow.log_policy(embeddings[i].double(), text)[labels[i]] for i in batch) / len(batch)
            adam.step(loss)
    return factors


def slow_average(factors_by_client, counts):
    """Σ_k N_k/N · w_k, tensor by tensor."""
    total = sum(counts)
    return {
        name: sum(
            n / total * factors[name].detach().double() for factors, n in zip(factors_by_client, counts, strict=True)
        )
        for name in factors_by_client[0]
    }
