"""A second family, in this file alone: the rest of the code trains it as it trains CLIP.

It is laid out as SigLIP: no class token but a head that pools all patches, and texts of a fixed length that attend in
both directions and are read at the last token.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from feddtl.backbones.catalog import FAMILIES, load_backbone
from feddtl.errors import ModelError
from feddtl.models.backbone import Backbone
from feddtl.models.digests import digests_in_memory
from feddtl.models.image_tower import ImageTower
from feddtl.models.modules import assign_weights, plain_encoder
from feddtl.models.preprocess import PlainTransform, Preprocessing
from feddtl.models.text_tower import TextTower
from feddtl.models.towers import UNCHANGED, BlockStack
from feddtl.preparation import prepare
from feddtl.runtimes.runtime import Progress, Runtime

WIDTH, HEADS, SIDE, PATCH, LENGTH = 32, 4, 16, 4, 64
BLOCKS = SimpleNamespace(
    hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=3, hidden_act="gelu", layer_norm_eps=1e-6
)


class ToyModel(nn.Module):
    """All weights, drawn from one seed."""

    def __init__(self):
        super().__init__()
        self.image = plain_encoder(BLOCKS)
        self.text = plain_encoder(BLOCKS)
        self.patches = nn.Linear(3 * PATCH**2, WIDTH)
        self.head = nn.Linear(WIDTH, 1)
        self.letters = nn.Embedding(256, WIDTH)
        self.positions = nn.Embedding(LENGTH, WIDTH)
        generator = torch.Generator().manual_seed(0)
        drawn = {name: 0.2 * torch.randn(w.shape, generator=generator) for name, w in self.state_dict().items()}
        assign_weights(self, drawn, torch.device("cpu"))


class ToyImageTower(ImageTower):
    def __init__(self, model):
        half = (0.5, 0.5, 0.5)
        plain = PlainTransform((SIDE, SIDE), (SIDE, SIDE), Image.Resampling.BILINEAR, 255.0, half, half)
        preprocessing = Preprocessing(lambda: None, {"side": SIDE}, lambda processor: plain)
        stack = BlockStack(model.image.layers, "image.layers", HEADS, causal=False)
        tokens = (SIDE // PATCH) ** 2
        super().__init__(stack, preprocessing, "toy", tokens=tokens, feature_width=WIDTH, architecture={})
        self.model = model

    def prefix_digests(self, stop):
        return digests_in_memory(self.model)(list(self.model.state_dict()))

    def embed(self, pixel_values):
        cut = pixel_values.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5)
        return self.model.patches(cut.flatten(3).flatten(1, 2))

    def with_prompts(self, hidden, prompts):
        return torch.cat([prompts.expand(len(hidden), -1, -1), hidden.to(prompts.dtype)], dim=1)

    def replace_prompts(self, hidden, prompts):
        return self.with_prompts(hidden[:, len(prompts) :], prompts)

    def pool(self, hidden, first_block, changes=UNCHANGED):
        hidden = self.stack.run(hidden, first_block, changes)
        return (self.model.head(hidden).softmax(dim=1) * hidden).sum(dim=1)

    def project(self, pooled):
        return pooled


class ToyTextTower(TextTower):
    def __init__(self, model):
        super().__init__(BlockStack(model.text.layers, "text.layers", HEADS, causal=False))
        self.model = model

    def tokenize_anew(self, prompts):
        rows = [prompt.encode()[:LENGTH] for prompt in prompts]
        ids = torch.tensor([[*row, *[0] * (LENGTH - len(row))] for row in rows])
        return ids, torch.full((len(ids),), LENGTH - 1)

    def embed(self, ids):
        return self.model.letters(ids) + self.model.positions.weight

    def embed_words(self, text):
        return self.model.letters(torch.tensor(list(text.encode())))

    def with_context(self, prompts, context, instead_of=0):
        ids, positions = self.tokenize(prompts)
        # Padding makes room, so that the length stays that of training.
        rest = self.model.letters(ids[:, instead_of : instead_of + LENGTH - len(context)])
        return torch.cat([context.expand(len(ids), -1, -1), rest], dim=1) + self.model.positions.weight, positions

    def replace_context(self, hidden, context):
        return torch.cat([context.expand(len(hidden), -1, -1), hidden[:, len(context) :]], dim=1)

    def project(self, pooled):
        return pooled


def load_toy(source, device="cpu", *, towers=None, remembered_in=None):
    model = ToyModel()
    return Backbone(source, ToyImageTower(model), ToyTextTower(model), 20.0, model, None, None)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "toy"}))
    monkeypatch.setitem(FAMILIES, "toy", load_toy)
    return str(tmp_path)


@pytest.mark.parametrize(
    "method", ["feddtl", "fedlora", "promptfl", "fedmaple", "fedpgp", "fedmgp", "pfedmma", "fedclip"]
)
def test_every_method_trains_a_model_of_another_family(bench, toy, method):
    """Two supervised rounds and two of RL; what is trained moves and stays finite."""
    experiment = bench.experiment(model=toy, method=method)
    ready = prepare(experiment)
    assert isinstance(ready.method.task.clip.image, ToyImageTower)
    start = Progress(ready.method.init_server())
    done = Runtime(ready.method, ready.clients, ready.sets, experiment).run(start)
    before, after = start.state.tensors, done.state.tensors
    assert done.state.round == experiment.rounds
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_model_of_an_unknown_family_is_refused_with_the_known_ones(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="is a 'bert' model") as caught:
        load_backbone(str(tmp_path))
    assert "clip" in caught.value.hint


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model_type": 3}'])
def test_a_configuration_without_a_type_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match="Cannot load the model") as caught:
        load_backbone(str(tmp_path))
    assert str(tmp_path) in caught.value.message


def test_clip_is_found_by_its_type(clip_folder):
    assert type(load_backbone(str(clip_folder))).__name__ == "Clip"
