"""The script as a whole, on pictures that are told apart by their colour."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from feddtl.backbones.clip import load_clip
from feddtl.config import DataConfig
from feddtl.data.sources import load_dataset
from feddtl.errors import ConfigError, RunError
from pretraining.images import FEDERATION, Pixels, write_halves
from pretraining.training import Training

TEN, HUNDRED = ("red", "green", "blue"), ("yellow", "black")
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 220), "yellow": (220, 220, 40)}


def coloured(names: tuple[str, ...], per_class: int, seed: int) -> Pixels:
    labels = np.repeat(np.arange(len(names)), per_class)
    spread = np.random.default_rng(seed).integers(0, 30, (len(labels), 32, 32, 3))
    base = np.array([COLOURS.get(names[label], (10, 10, 10)) for label in labels])
    return Pixels((base[:, None, None] + spread).astype(np.uint8), labels.astype(np.int64), names)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    import pretrain_small_clip

    monkeypatch.setattr(pretrain_small_clip, "SECONDS_PER_LINE", 0)
    return pretrain_small_clip


@pytest.fixture
def options(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A short training of a very small model on a data root made here."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    root = tmp_path / "data"
    for name, names in (("cifar10", TEN), ("cifar100", HUNDRED)):
        train, test = coloured(names, 12, 1), coloured(names, 4, 2)
        write_halves(tmp_path / name, train, train, test)
        root.mkdir(exist_ok=True)
        (tmp_path / name / FEDERATION).rename(root / name)
    return script.Options(
        tmp_path / "models" / "made", data_root=root, device="cpu", epochs=1, batch_size=14, width=64, blocks=2,
        patch_size=16,
    )  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_three_steps_give_a_folder_that_loads_and_scores_what_was_printed(
    script: ModuleType, options: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """18 + 24 training images in batches of 14 are three steps; the oracle of the score is feddtl's own model."""
    script.run(replace(options, write_halves=options.output.parent.parent / "halves"))
    printed = capsys.readouterr().out
    assert "42 images of 5 classes" in printed
    assert "step 3/3" in printed
    clip = load_clip(str(options.output))
    test = load_dataset(DataConfig(source=str(options.data_root / "cifar10"))).test
    images = clip.image.preprocess([test.read(i) for i in range(len(test))])
    features = clip.image.features(clip.image.prefix(images, 0), 0)
    prompts, ends = clip.text.prefix(tuple(f"a photo of a {name}." for name in TEN), 0)
    texts = clip.text.features(prompts, ends, 0)
    image, text = (torch.nn.functional.normalize(part, dim=-1) for part in (features, texts))
    accuracy = 100 * ((image @ text.t()).argmax(-1).numpy() == test.labels).mean()
    assert f"CIFAR-10: {accuracy:.1f} %" in printed
    card = (options.output / "README.md").read_text("utf-8")
    assert f"| CIFAR-10 | {accuracy:.1f} |" in card
    assert "3 steps of 14 images (1.00 epochs)" in card
    assert not options.checkpoint.exists()
    assert len(load_dataset(DataConfig(source=str(options.output.parent.parent / "halves" / FEDERATION))).train) == 18


@pytest.mark.slow
def test_a_longer_training_tells_the_colours_apart(
    script: ModuleType, options: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    script.run(replace(options, epochs=30))
    found = re.search(r"CIFAR-10: ([\d.]+) %", capsys.readouterr().out)
    assert found is not None
    assert float(found[1]) == 100


def test_an_interrupted_training_ends_with_the_same_weights(
    script: ModuleType, options: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = replace(options, epochs=2, checkpoint_minutes=1e-9)
    script.run(options)
    other = replace(options, output=tmp_path / "models" / "interrupted")
    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", interrupted_after(4, Training.step))
        with pytest.raises(KeyboardInterrupt):
            script.run(other)
    assert not other.output.exists()
    with pytest.raises(RunError, match=r"--resume"):
        script.run(other)
    with pytest.raises(RunError, match="seed = 0, not 1"):
        script.run(replace(other, resume=True, seed=1))
    script.run(replace(other, resume=True))
    straight, resumed = weights(options.output), weights(other.output)
    assert straight.keys() == resumed.keys()
    for name, weight in straight.items():
        assert torch.equal(weight, resumed[name]), name


def interrupted_after(steps: int, step: Callable[[Training], torch.Tensor]) -> Callable[[Training], torch.Tensor]:
    def interrupt(training: Training) -> torch.Tensor:
        if training.done == steps:
            raise KeyboardInterrupt
        return step(training)

    return interrupt


@pytest.mark.parametrize("name", ["output", "write_halves"])
def test_a_folder_that_is_there_is_not_replaced(script: ModuleType, options: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError, match="taken already exists"):
        script.run(replace(options, **{name: tmp_path / "taken"}))


def test_a_loss_that_is_no_number_ends_the_training(
    script: ModuleType, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(training: Training) -> torch.Tensor:
        training.done += 1
        return torch.tensor(float("nan"))

    monkeypatch.setattr(Training, "step", broken)
    with pytest.raises(RunError, match="The loss is nan at step 1"):
        script.run(options)
    assert not options.checkpoint.exists()


def test_a_resumption_without_a_checkpoint_is_refused(script: ModuleType, options: Any) -> None:
    with pytest.raises(RunError, match="There is no checkpoint"):
        script.run(replace(options, resume=True))


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("batch_size", 0), ("blocks", 0), ("rate", 0.0), ("rate", float("nan")), ("width", 100),
     ("width", 0), ("patch_size", 5), ("checkpoint_minutes", -1.0)],
)  # fmt: skip
def test_flags_out_of_range_are_refused(script: ModuleType, options: Any, name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        replace(options, **{name: value})


def test_a_batch_larger_than_the_data_is_refused(script: ModuleType, options: Any) -> None:
    with pytest.raises(ConfigError, match="at most the number of images, 42"):
        script.run(replace(options, batch_size=43))


def test_the_command_on_the_card_remakes_the_model(script: ModuleType, options: Any) -> None:
    import tyro

    words = replace(options, quick=True, rate=5e-4).command().split()[2:]
    parsed = tyro.cli(script.Options, args=words, config=(tyro.conf.FlagCreatePairsOff,))
    assert parsed.settings() == replace(options, quick=True, rate=5e-4).settings()
