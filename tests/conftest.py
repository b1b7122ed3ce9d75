"""A tiny random CLIP in Hugging Face format and random images: no network, no trained weights."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image
from untraced import is_repeated, pause_in_libraries

from feddtl.config import Experiment
from feddtl.data.table import ImageTable
from feddtl.methods.tables import MethodTables, settings_types

# The process that starts the workers reads this file first, and they wait for it: torch and transformers come later.
if TYPE_CHECKING:
    from cli.killable import KillableRuns
    from cli.small_runs import Bench
    from tiny_federation import Federation

    from feddtl.backbones.clip import Clip
    from feddtl.messages import ServerState

# The first use of a tower is slow, so a time limit per example says nothing; the same examples every time.
settings.register_profile("feddtl", deadline=None, derandomize=True)
settings.load_profile("feddtl")

MakeClip = Callable[..., Path]

IMAGE_SIZE = 16


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


@pytest.fixture(scope="session", autouse=True)
def fast_disk() -> Iterator[None]:
    """Nothing waits for the disk: only a power failure would show a difference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def libraries_at_full_speed() -> Iterator[None]:
    """Coverage costs nothing where no line of feddtl is run."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.gettrace() is not None:
            pause_in_libraries(patch)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in filter(is_repeated, items):
        item.add_marker("no_cover")


@pytest.fixture(scope="session", autouse=True)
def undrawn_curves() -> Iterator[None]:
    """A run in this process writes what its curves show and draws nothing, which would take a quarter of its time.

    The tests of plots draw, and so do runs in processes of their own.
    """
    from feddtl import curves, plots

    draw, drawn = curves.accuracy_curves, plots._drawn

    def undrawn(*arguments: Any, **options: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            # Trackers get pictures and read them.
            patch.setattr(plots, "_drawn", lambda *of: content_of(*of) if of[1] == ".svg" else drawn(*of))
            draw(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "accuracy_curves", undrawn)
        yield


def content_of(figure: Any, ending: str) -> tuple[bytes, bool]:
    """Lines, axes and texts of a figure, in place of its drawing."""
    [axes] = figure.axes
    lines = [(line.get_label(), line.get_color(), line.get_marker(), line.get_xydata().tolist()) for line in axes.lines]
    texts = [axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), figure.get_supxlabel()]
    return repr([ending, lines, axes.get_xlim(), axes.get_ylim(), texts]).encode(), True


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Model and pictures for the command line; shared by all tests, so none may change them."""
    from cli.small_runs import make_bench

    return make_bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="session")
def finished(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished FedDTL run; shared by all tests, so none may change it."""
    return bench.run(tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillableRuns]:
    """Starts commands that can be killed; one process for all tests has imported what they need."""
    if not hasattr(os, "fork") or not Path("/proc/self/stat").exists():
        pytest.skip("needs fork and /proc")
    from cli.killable import KillableRuns

    with KillableRuns(tmp_path_factory.mktemp("log") / "log.txt") as started:
        yield started


@pytest.fixture(scope="session")
def make_clip(tmp_path_factory: pytest.TempPathFactory) -> MakeClip:
    """Writes a tiny random CLIP and returns its folder; equal arguments give the same folder."""

    @cache
    def make(*, image_blocks: int = 4, text_blocks: int = 3, heads: int = 4, legacy_eos: bool = False) -> Path:
        from tiny_clip import write_tiny_clip

        folder = tmp_path_factory.mktemp("clip")
        write_tiny_clip(folder, image_blocks, text_blocks, heads, legacy_eos)
        return folder

    return make


@pytest.fixture(scope="session")
def clip_folder(make_clip: MakeClip) -> Path:
    """Folder of the default tiny random CLIP: 4 image blocks, 3 text blocks, width 32."""
    return make_clip()


@pytest.fixture(scope="session")
def clip(clip_folder: Path) -> Clip:
    """The default tiny random CLIP; shared by all tests, so none may change it."""
    from feddtl.backbones.clip import load_clip

    return load_clip(str(clip_folder))


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


@pytest.fixture(scope="session")
def federation(clip: Clip, make_images: Callable[..., ImageTable]) -> Federation:
    """The default tiny federation; shared by all tests, so none may change it."""
    from tiny_federation import make_federation

    return make_federation(clip, make_images)


@pytest.fixture(scope="session")
def double_federation(federation: Federation, clip_folder: Path) -> Federation:
    """The same federation in float64, where rounding cannot hide a mistake."""
    from feddtl.backbones.clip import load_clip

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
        import torch

        from feddtl.messages import ServerState

        generator = torch.Generator().manual_seed(seed)
        moved = {
            name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
            for name, tensor in state.tensors.items()
        }
        return ServerState(round_number, moved)

    return make
