"""How many numbers each method trains at the shape of CLIP ViT-B/16, counted by hand; no weight of it is needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from feddtl.backbones.clip import Clip, ClipImageTower, ClipTextTower
from feddtl.config import Experiment, LoraConfig
from feddtl.messages import count_parameters
from feddtl.methods.base import TrainedParameters
from feddtl.methods.catalog import METHODS, build_method
from feddtl.methods.fedmaple.settings import FedMaPLeSettings
from feddtl.methods.fedmgp.settings import FedMGPSettings
from feddtl.methods.tables import MethodTables, settings_types
from feddtl.methods.task import Task
from feddtl.models.preprocess import Preprocessing
from feddtl.runtimes.server_step import server_step


@pytest.fixture(scope="module")
def task(clip):
    """CLIP ViT-B/16 with its 24 blocks on the meta device. A token is a byte, so a vocabulary of 300 is enough."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = clip.tokenizer
    vision = {"patch_size": 16}  # transformers' defaults are those of ViT-B/32
    text = {"vocab_size": 300, "eos_token_id": tokenizer.eos_token_id}
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=512))
    for part in (model.text_model.embeddings, model.text_projection, model.visual_projection):
        part.to_empty(device="cpu")
    processor = CLIPImageProcessorPil()
    cpu = torch.device("cpu")
    image = ClipImageTower(model, Preprocessing.of(processor), device=cpu)
    text = ClipTextTower(model, tokenizer, cpu)
    large = Clip("ViT-B/16", image, text, 100.0, model, tokenizer, processor)
    assert (large.image.width, large.text.width, large.image.feature_width, large.image.tokens) == (768, 512, 512, 197)
    assert len(large.image.stack) == len(large.text.stack) == 12
    return Task(large, ("cat",), "a photo of a {class}.", 0)


def counted(task, method, **changes):
    own = {name: changes.pop(name) for name in settings_types() if name in changes}
    experiment = Experiment(method=method, methods=MethodTables.from_mapping(own), **changes)
    return build_method(task, experiment).trained_parameters()


def test_promptfl(task):
    """16 · 512 = 8,192."""
    assert counted(task, "promptfl") == TrainedParameters(shared=8_192)


def test_fedpgp(task):
    """σ as PromptFL; U and V 16 · 8 + 8 · 512 = 4,224; together 12,416."""
    assert counted(task, "fedpgp") == TrainedParameters(shared=8_192, personal=4_224)


def test_fedmaple(task):
    """Two tokens: 9 · (2 · 512) of text and 9 · (512 · 768 + 768) of maps: 9,216 + 3,545,856 = 3,555,072.

    The byte-level tokens of this test make two tokens of "ab", as CLIP's make of "a photo"."""
    found = counted(task, "fedmaple", fedmaple=FedMaPLeSettings(initial_text="ab"))
    assert found == TrainedParameters(shared=3_555_072)


def test_fedmgp(task):
    """Five groups of 2 · (512 + 768) = 2,560; two are sent. The paper counts 12.8k trained and 5.1k sent."""
    found = counted(task, "fedmgp")
    assert found == TrainedParameters(shared=5_120, personal=7_680)
    assert counted(task, "fedmgp", fedmgp=FedMGPSettings(shared_groups=5)) == TrainedParameters(shared=12_800)


def test_pfedmma(task):
    """Shared: 8 · (32 · 32 + 32) = 8,448. Personal, a depth: down and up of the image tower, 2 · 768 · 32 + 32 + 768 =
    49,952, of the text tower 2 · 512 · 32 + 32 + 512 = 33,312; 8 · 83,264 = 666,112. Together 674,560."""
    found = counted(task, "pfedmma")
    assert found == TrainedParameters(shared=8_448, personal=666_112)
    assert found.shared + found.personal == 674_560


def test_fedclip(task):
    """2 · (512² + 512) = 525,312."""
    assert counted(task, "fedclip") == TrainedParameters(shared=525_312)


# Query, key and value of the last two blocks at rank 4: 6 · 4 · (768 + 768) = 36,864 and 6 · 4 · (512 + 512) = 24,576.
IMAGE, TEXT = 36_864, 24_576


def test_lora(task):
    """The text below the first adapted block, which a model without weights cannot compute, is not asked for."""
    assert counted(task, "feddtl") == TrainedParameters(shared=IMAGE, server=TEXT)
    assert counted(task, "fedlora") == TrainedParameters(shared=IMAGE + TEXT)
    assert counted(task, "fedlora", lora=LoraConfig(rank=8)) == TrainedParameters(shared=2 * (IMAGE + TEXT))


def test_methods_that_share_or_train_one_factor(task):
    """A and B of a layer as wide as it is high are equally large, so either is half."""
    half = (IMAGE + TEXT) // 2
    assert counted(task, "fedsa-lora") == TrainedParameters(shared=half, personal=half)
    assert counted(task, "ffa-lora") == TrainedParameters(shared=half)
    assert counted(task, "rolora") == counted(task, "fedex-lora") == TrainedParameters(shared=2 * half)


def test_zero_shot(task):
    assert counted(task, "zero-shot") == TrainedParameters()


def test_the_page_of_the_methods_states_these_numbers(task):
    """Its table, and four bytes a shared number on the wire."""
    page = Path(__file__).resolve().parents[2] / "docs/explanation/methods.md"
    rows = re.findall(
        r"^\| `([\w-]+)` \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d.]+) (kB|MB)", page.read_text(), re.MULTILINE
    )
    assert {row[0] for row in rows} == set(METHODS) - {"zero-shot"}
    for method, *numbers, amount, unit in rows:
        changes = {"fedmaple": FedMaPLeSettings(initial_text="ab")} if method == "fedmaple" else {}
        found = counted(task, method, **changes)
        assert TrainedParameters(*(int(number.replace(",", "")) for number in numbers)) == found
        sent = found.shared // (2 if method == "rolora" else 1)
        assert amount == f"{4 * sent / {'kB': 1e3, 'MB': 1e6}[unit]:.1f}"


@pytest.mark.parametrize("method", METHODS)
def test_the_count_is_what_a_client_really_changes(federation, make_experiment, randomised, method):
    """Numbers that a round changes, in what is sent and in what is kept. Byte-level PromptFL has 16 · 32 of them."""
    method = build_method(federation.task, make_experiment(method=method))
    if not method.trains:
        return
    if method.own_aggregation == "alternate":
        pytest.skip("one factor in each round, see test_lora_aggregation")
    state = randomised(method.init_server(), 0)
    update = method.client_update(method.broadcast(state), federation.clients(method)[0], {})
    found = method.trained_parameters()
    assert (found.shared, found.personal) == (count_parameters(update.weights), count_parameters(update.personal))
    after = server_step(method, state, [update]).state
    changed = sum(
        int((tensor != state.tensors[name]).sum())
        for name, tensor in after.tensors.items()
        if not name.startswith("anchor/")
    )
    assert changed <= found.shared + found.server
    assert changed > 0.9 * (found.shared + found.server)
