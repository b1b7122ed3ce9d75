"""A tiny random CLIP in Hugging Face format and random images: no network, no trained weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli.small_runs import Bench, make_bench
from hypothesis import settings
from PIL import Image
from plain_activations import frozen_activations

from feddtl.backbones.clip import Clip, load_clip
from feddtl.config import Experiment
from feddtl.data.table import ImageTable
from feddtl.evaluate import EvaluationSets, TestImages
from feddtl.messages import ServerState
from feddtl.methods.base import Method
from feddtl.methods.tables import MethodTables, settings_types
from feddtl.methods.task import Task
from feddtl.models.activations import Activations
from feddtl.training.client_data import ClientData

# The first use of a tower is slow, so a time limit per example says nothing; the same examples every time.
settings.register_profile("feddtl", deadline=None, derandomize=True)
settings.load_profile("feddtl")

MakeClip = Callable[..., Path]

IMAGE_SIZE = 16
CONTEXT = 64
LOGIT_SCALE = 20.0


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests keep their activations and measurements where nobody else's are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDDTL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def quiet_machine() -> Iterator[None]:
    """What a run says does not depend on what else the machine does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
        yield


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Model and pictures for the command line; shared by all tests, so none may change them."""
    return make_bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="session")
def make_clip(tmp_path_factory: pytest.TempPathFactory) -> MakeClip:
    """Writes a tiny random CLIP and returns its folder; equal arguments give the same folder."""

    @cache
    def make(*, image_blocks: int = 4, text_blocks: int = 3, heads: int = 4, legacy_eos: bool = False) -> Path:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        folder = tmp_path_factory.mktemp("clip")
        tokenizer = build_tokenizer(legacy_eos)
        build_model(tokenizer, image_blocks, text_blocks, heads, legacy_eos).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=side).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def clip_folder(make_clip: MakeClip) -> Path:
    """Folder of the default tiny random CLIP: 4 image blocks, 3 text blocks, width 32."""
    return make_clip()


@pytest.fixture(scope="session")
def clip(clip_folder: Path) -> Clip:
    """The default tiny random CLIP; shared by all tests, so none may change it."""
    return load_clip(str(clip_folder))


# transformers takes seconds to import, which tests without a model need not wait for.
def build_tokenizer(legacy_eos: bool) -> Any:
    """Byte-level tokens without merges. The end of text has id 3, or with `legacy_eos` the largest id."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    first = ["<pad>", "<unk>", "<bos>"] if legacy_eos else ["<pad>", "<unk>", "<bos>", "<eos>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        [], trainers.BpeTrainer(special_tokens=first, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<bos>", "<eos>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=CONTEXT,
    )


def build_model(tokenizer: Any, image_blocks: int, text_blocks: int, heads: int, legacy_eos: bool) -> Any:
    """CLIP whose outputs depend strongly on every weight, which Hugging Face's small initial ones do not."""
    from transformers import CLIPConfig, CLIPModel

    shared = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": heads, "projection_dim": 24}
    vision = {**shared, "num_hidden_layers": image_blocks, "image_size": IMAGE_SIZE, "patch_size": 8}
    text = {
        **shared,
        "num_hidden_layers": text_blocks,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": CONTEXT,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": 2 if legacy_eos else tokenizer.eos_token_id,
    }
    model = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=24))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name == "logit_scale":
                parameter.fill_(LOGIT_SCALE).log_()
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.1 * noise)
            elif "embedding" in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
    return model.eval()


@pytest.fixture(scope="session")
def make_images() -> Callable[..., ImageTable]:
    """Builds a table of random pictures; the label decides the colour, so that classes can be learnt."""

    def make(labels: list[int], seed: int = 0, size: tuple[int, int] = (IMAGE_SIZE, IMAGE_SIZE)) -> ImageTable:
        rng = np.random.default_rng(seed)
        colours = np.random.default_rng(0).integers(30, 226, size=(64, 1, 1, 3))
        noise = rng.integers(-30, 31, size=(len(labels), size[1], size[0], 3))
        pixels = (colours[labels] + noise).astype(np.uint8)
        rows = np.arange(len(labels))
        return ImageTable(
            lambda row: Image.fromarray(pixels[row]), rows, np.asarray(labels, np.int64), np.zeros_like(rows)
        )

    return make


@dataclass(frozen=True)
class Federation:
    """Three clients with 7, 5 and 6 images of three base classes, and test images of these and two novel ones.

    Attributes:
        task: What all parties agree on.
        tables: Training images by client.
        test_base: 12 images; the clients' shares are the first 4, none, and the last 8.
        test_novel: 6 images.
    """

    task: Task
    tables: tuple[ImageTable, ...]
    test_base: ImageTable
    test_novel: ImageTable

    def clients(self, method: Method, dtype: torch.dtype = torch.float32) -> list[ClientData]:
        """Every client's activations at the method's first changing block."""
        return [
            ClientData(client, self._encode(table, method, dtype), torch.from_numpy(table.labels))
            for client, table in enumerate(self.tables)
        ]

    def sets(self, method: Method, dtype: torch.dtype = torch.float32) -> EvaluationSets:
        """What a runtime scores."""
        shares = (torch.arange(4), torch.arange(0), torch.arange(4, 12))
        base = self._test(self.test_base, self.task.class_names, method, dtype)
        novel = self._test(self.test_novel, ("teapot", "ice cream"), method, dtype)
        return EvaluationSets(base, novel, shares, ("all",))

    def pixels(self, client: int) -> torch.Tensor:
        """(N, 3, H, W) training images of a client, as the model's own processor gives them."""
        table = self.tables[client]
        return self.task.clip.image.preprocess([table.read(index) for index in range(len(table))])

    def _encode(self, table: ImageTable, method: Method, dtype: torch.dtype) -> Activations:
        found = frozen_activations(self.task.clip.image, table, method.first_image_block, dtype=dtype)
        return Activations.of(found)

    def _test(self, table: ImageTable, names: tuple[str, ...], method: Method, dtype: torch.dtype) -> TestImages:
        activations = self._encode(table, method, dtype)
        return TestImages(activations, torch.from_numpy(table.labels), torch.from_numpy(table.domains), names)


@pytest.fixture(scope="session")
def federation(clip: Clip, make_images: Callable[..., ImageTable]) -> Federation:
    """The default tiny federation; shared by all tests, so none may change it."""
    labels = ([0, 0, 1, 2, 1, 0, 2], [1, 1, 2, 2, 1], [0, 2, 0, 1, 2, 0])
    return Federation(
        Task(clip, ("cat", "red panda", "great crested grebe"), "a photo of a {class}.", 3),
        tuple(make_images(owned, seed=10 + client) for client, owned in enumerate(labels)),
        make_images([0, 1, 2] * 4, seed=20),
        make_images([0, 1] * 3, seed=21),
    )


@pytest.fixture(scope="session")
def double_federation(federation: Federation, clip_folder: Path) -> Federation:
    """The same federation in float64, where rounding cannot hide a mistake."""
    clip = load_clip(str(clip_folder))
    scale = float(clip.model.double().logit_scale.exp())
    return replace(federation, task=replace(federation.task, clip=replace(clip, logit_scale=scale)))


@pytest.fixture(scope="session")
def make_experiment() -> Callable[..., Experiment]:
    """A short experiment: 2 SFT rounds of 4, batches of 3, scaling 1.5, one client at a time; tables are changed
    key by key."""
    short: dict[str, dict[str, Any]] = {
        "lora": {"rank": 3, "alpha": 4.5},
        "schedule": {"sft_rounds": 2},
        "local": {"batch_size": 3},
        "rl": {"epochs": 2, "noise_std": 0.2, "group_size": 4},
        "server": {"batch_size": 4},
        "compute": {"clients_together": 1, "precision": "float32", "attention": "sdpa"},
    }

    def make(**changes: Any) -> Experiment:
        own = {name: changes.pop(name) for name in settings_types() if name in changes}
        default = Experiment(rounds=4, seed=3, methods=MethodTables.from_mapping(own))
        tables = {name: {**short.get(name, {}), **changes.pop(name, {})} for name in (*short, "uplink", "evaluation")}
        return replace(
            default,
            **{name: replace(getattr(default, name), **values) for name, values in tables.items()},
            **changes,
        )

    return make


@pytest.fixture(scope="session")
def randomised() -> Callable[..., ServerState]:
    """A state of some round as training leaves it: every factor moved away from its initial value."""

    def make(state: ServerState, round_number: int, seed: int = 0) -> ServerState:
        generator = torch.Generator().manual_seed(seed)
        moved = {
            name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
            for name, tensor in state.tensors.items()
        }
        return ServerState(round_number, moved)

    return make
