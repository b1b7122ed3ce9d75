"""The compared methods a second time: whole forward passes of transformers' CLIPModel in double precision.

What a method changes is put in by hooks on the Hugging Face modules; prompts stand in the place of placeholder tokens.
Every text is encoded alone, without padding, every image from its pixels. Shared with the library are only the names of
the tensors and where the order of batches comes from.
"""

from __future__ import annotations

import copy
import math
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from feddtl.seeding import torch_generator

PLACEHOLDER = 1


@contextmanager
def hooks(*handles):
    """Hooks that are taken off again."""
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        yield


def replace_tokens(prompts, where):
    """A pre-hook that puts prompts (n, d) into the hidden states (1, S, d) that a layer gets."""

    def put(module, arguments, keywords):
        first, rest = (arguments[0], arguments[1:]) if arguments else (keywords["hidden_states"], ())
        changed = first.clone()
        changed[:, where] = prompts
        if arguments:
            return (changed, *rest), keywords
        return (), {**keywords, "hidden_states": changed}

    return put


class SlowMethod:
    """The frozen model itself; a method below changes one or both towers."""

    # What a client's gradients are multiplied by before a step.
    gradient_factor = 1.0

    def __init__(self, clip, template, settings=None):
        self.model = copy.deepcopy(clip.model).double()
        self.tokenizer = clip.tokenizer
        self.template = template
        self.settings = settings
        # Read before the weights were made double: the same number to the last bit.
        self.scale = clip.logit_scale

    def ids(self, text):
        return self.tokenizer([text], return_tensors="pt")["input_ids"]

    def encode_text(self, ids):
        return self.model.text_projection(self.model.text_model(input_ids=ids).pooler_output)[0]

    def encode_image(self, pixels):
        return self.model.visual_projection(self.model.vision_model(pixel_values=pixels[None].double()).pooler_output)[
            0
        ]

    def text_feature(self, tensors, name):
        return self.encode_text(self.ids(self.template.replace("{class}", name.replace("_", " "))))

    def image_feature(self, tensors, pixels):
        return self.encode_image(pixels)

    def text_features(self, tensors, names):
        return torch.stack([self.text_feature(tensors, name) for name in names])

    def image_features(self, tensors, pixels):
        return torch.stack([self.image_feature(tensors, image) for image in pixels])

    def loss(self, tensors, pixels, labels, names):
        """Mean of -log softmax(s cos)_y over a batch."""
        text = unit(self.text_features(tensors, names))
        logits = self.scale * unit(self.image_features(tensors, pixels)) @ text.T
        chosen = logits.gather(1, torch.tensor(labels)[:, None])[:, 0]
        return (logits.logsumexp(dim=1) - chosen).mean()


class SlowPromptFL(SlowMethod):
    """n placeholders behind the start of text, whose embeddings a hook replaces."""

    def context(self, tensors):
        return tensors["context"]

    def text_feature(self, tensors, name):
        context = self.context(tensors)
        ids = self.ids(name.replace("_", " ") + ".")
        ids = torch.cat([ids[:, :1], torch.full((1, len(context)), PLACEHOLDER), ids[:, 1:]], dim=1)
        embedding = self.model.text_model.embeddings.token_embedding

        def put(module, arguments, output):
            return torch.cat([output[:, :1], context[None], output[:, 1 + len(context) :]], dim=1)

        with hooks(embedding.register_forward_hook(put)):
            return self.encode_text(ids)


class SlowFedPGP(SlowPromptFL):
    """The same with σ + U V, and the contrastive term."""

    def context(self, tensors):
        return tensors["context"] + tensors["U"] @ tensors["V"] if "U" in tensors else tensors["context"]

    def loss(self, tensors, pixels, labels, names):
        written = unit(torch.stack([SlowMethod.text_feature(self, {}, name) for name in names]))
        shared = unit(self.text_features({"context": tensors["context"]}, names))
        personal = unit(self.text_features(tensors, names))
        terms = []
        for w, s, u in zip(written, shared, personal, strict=True):
            t = self.settings.contrast_temperature
            p, m = torch.exp(torch.dot(w, s) / t), torch.exp(torch.dot(s, u) / t)
            terms.append(-torch.log(p / (p + m)))
        cross_entropy = super().loss(tensors, pixels, labels, names)
        return cross_entropy + self.settings.contrast_weight * sum(terms) / len(terms)


class SlowFedMaPLe(SlowMethod):
    """Prompts in front of the layers, by hooks; `settings` is the depth."""

    def pre_hooks(self, layers, prompts, where):
        return [
            layers[block].register_forward_pre_hook(replace_tokens(prompts[block], where), with_kwargs=True)
            for block in range(1, self.settings)
        ]

    def text_feature(self, tensors, name):
        prompts = [tensors[f"text.{block}"] for block in range(self.settings)]
        where = slice(1, 1 + len(prompts[0]))
        text = self.model.text_model

        def put(module, arguments, output):
            changed = output.clone()
            changed[:, where] = prompts[0]
            return changed

        placed = text.embeddings.token_embedding.register_forward_hook(put)
        with hooks(placed, *self.pre_hooks(text.encoder.layers, prompts, where)):
            return self.encode_text(self.ids(f"a photo of a {name.replace('_', ' ')}."))

    def image_feature(self, tensors, pixels):
        prompts = [
            tensors[f"text.{block}"] @ tensors[f"map.{block}.weight"].T + tensors[f"map.{block}.bias"]
            for block in range(self.settings)
        ]
        count, vision = len(prompts[0]), self.model.vision_model
        behind = vision.embeddings.register_forward_hook(
            lambda module, arguments, output: torch.cat([output, prompts[0][None]], dim=1)
        )
        with hooks(behind, *self.pre_hooks(vision.encoder.layers, prompts, slice(-count, None))):
            return self.encode_image(pixels)


class SlowFedMGP(SlowPromptFL):
    """One group after another; `settings` is the table of the experiment, `order` the group of each prompt by kind."""

    def __init__(self, clip, template, settings, order):
        super().__init__(clip, template, settings)
        self.order = order

    def group(self, tensors, kind, number):
        place = self.order[kind].index(number)
        shared = len(tensors[kind])
        return tensors[kind][place] if place < shared else tensors[f"own.{kind}"][place - shared]

    def text_of_group(self, tensors, names, number):
        """(C, e) unit features."""
        prompts = {"context": self.group(tensors, "text", number)}
        return unit(torch.stack([self.text_feature(prompts, name) for name in names]))

    def images_of_group(self, tensors, pixels, number):
        """(B, e) unit features, with prompts behind the patches of the first layer's input."""
        prompts, vision = self.group(tensors, "visual", number), self.model.vision_model
        behind = vision.embeddings.register_forward_hook(
            lambda module, arguments, output: torch.cat([output, prompts[None]], dim=1)
        )
        with hooks(behind):
            return unit(torch.stack([self.encode_image(image) for image in pixels]))

    def loss(self, tensors, pixels, labels, names):
        groups = range(self.settings.groups)
        images = [self.images_of_group(tensors, pixels, number) for number in groups]
        texts = [self.text_of_group(tensors, names, number) for number in groups]
        cross_entropies, between = [], []
        for image, text in zip(images, texts, strict=True):
            logits = self.scale * image @ text.T
            for row, label in enumerate(labels):
                cross_entropies.append(logits[row].logsumexp(dim=0) - logits[row, label])
        for one in groups:
            for other in groups:
                if one != other:
                    for features in (images, texts):
                        cosines = [torch.dot(u, v) for u, v in zip(features[one], features[other], strict=True)]
                        between.append(sum(cosines) / len(cosines))
        pairs = len(groups) * (len(groups) - 1)
        return sum(cross_entropies) / len(cross_entropies) + self.settings.diversity_weight * sum(between) / pairs


class SlowPFedMMA(SlowMethod):
    """Adapters beside whole layers, from the last one back; `settings` is the table of the experiment.

    The adapters are plain products, so autograd gives the true gradient. A client learns from it divided by the scale.
    """

    @property
    def gradient_factor(self):
        return 1 / self.settings.scale

    def beside(self, tensors, tower, layers):
        depths = min(self.settings.blocks, *(len(part.encoder.layers) for part in self.towers()))

        def adapter(depth):
            def add(module, arguments, keywords, output):
                hidden = arguments[0] if arguments else keywords["hidden_states"]

                def layer(name, inputs):
                    return inputs @ tensors[f"{name}.{depth}.weight"].T + tensors[f"{name}.{depth}.bias"]

                narrow = layer(f"{tower}.down", module.layer_norm1(hidden)).clamp(min=0)
                middle = layer("shared", narrow).clamp(min=0)
                return output + self.settings.scale * layer(f"{tower}.up", middle)

            return add

        first = len(layers) - depths
        return [
            layers[first + depth].register_forward_hook(adapter(depth), with_kwargs=True) for depth in range(depths)
        ]

    def towers(self):
        return self.model.vision_model, self.model.text_model

    def text_feature(self, tensors, name):
        with hooks(*self.beside(tensors, "text", self.model.text_model.encoder.layers)):
            return super().text_feature(tensors, name)

    def image_feature(self, tensors, pixels):
        with hooks(*self.beside(tensors, "image", self.model.vision_model.encoder.layers)):
            return self.encode_image(pixels)


class SlowFedCLIP(SlowMethod):
    """A gate of torch's own layers; `settings` is the table of the experiment."""

    def image_feature(self, tensors, pixels):
        z = self.encode_image(pixels)
        gate = nn.Sequential(
            nn.Linear(len(z), len(z)), nn.Tanh(), nn.Linear(len(z), len(z)), nn.Softmax(dim=-1)
        ).double()
        state = {
            f"{place}.{part}": tensors[f"gate.{which}.{part}"]
            for place, which in (("0", "first"), ("2", "second"))
            for part in ("weight", "bias")
        }
        return z * torch.func.functional_call(gate, state, (z,))

    def loss(self, tensors, pixels, labels, names):
        if self.settings.loss == "cross-entropy":
            return super().loss(tensors, pixels, labels, names)
        # CLIP's pseudocode: logits of image i and text j of the batch, cross-entropy along both axes, their mean.
        text = unit(self.text_features(tensors, [names[label] for label in labels]))
        logits = self.scale * unit(self.image_features(tensors, pixels)) @ text.T
        both = [logits.logsumexp(dim=axis) - logits.diagonal() for axis in (0, 1)]
        return (both[0].mean() + both[1].mean()) / 2


def unit(vectors):
    return vectors / vectors.norm(dim=-1, keepdim=True)


def slow_sgd_round(slow, tensors, pixels, labels, names, local, seed, client, round_number):
    """Epochs of mini-batches of SGD written out; returns the tensors and the mean loss over the images seen.

    v ← 0.9 v + (f g + λ w), v = f g + λ w at the first step; w ← w - η v, with f the method's own factor.
    """
    tensors = {name: tensor.double().clone().requires_grad_() for name, tensor in tensors.items()}
    velocity, total = {}, 0.0
    order = torch_generator(seed, "batch-order", client, round_number)
    for epoch in range(local.epochs):
        rate = local.learning_rate
        if local.rate_schedule == "cosine":
            rate *= math.cos(math.pi * (epoch - local.warmup_epochs) / (2 * local.epochs)) ** 2
        rate = local.warmup_rate if epoch < local.warmup_epochs else rate
        shuffled = torch.randperm(len(labels), generator=order).tolist()
        for start in range(0, len(labels), local.batch_size):
            batch = shuffled[start : start + local.batch_size]
            loss = slow.loss(tensors, pixels[batch], [labels[i] for i in batch], names)
            gradients = torch.autograd.grad(loss, list(tensors.values()))
            for (name, tensor), gradient in zip(tensors.items(), gradients, strict=True):
                change = slow.gradient_factor * gradient + local.weight_decay * tensor.detach()
                velocity[name] = local.momentum * velocity[name] + change if name in velocity else change
                tensor.data -= rate * velocity[name]
            total += loss.item() * len(batch)
    return {name: tensor.detach() for name, tensor in tensors.items()}, total / (len(labels) * local.epochs)
