"""Train a small CLIP from scratch on CIFAR-100 and half of CIFAR-10, and write it in Hugging Face format.

Run: python scripts/pretrain_small_clip.py --output models/small-clip --write-halves data/halves
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor
from transformers import CLIPModel, PreTrainedTokenizerFast

from feddtl.checks import check_scalar, require
from feddtl.environment import choose_device
from feddtl.errors import FeddtlError, RunError
from feddtl.seeding import derive_seed, torch_generator
from feddtl.storage import new_folder
from feddtl.units import duration
from pretraining import folder
from pretraining.captions import PROMPT, TEMPLATES, texts, tokenize
from pretraining.card import Made, model_card
from pretraining.fitting import calibrate_projection
from pretraining.images import Pixels, halves, joined, load_images, write_halves
from pretraining.text import build_tokenizer
from pretraining.training import Training, accuracy, on_device

VOCABULARY = 2048
HEAD_WIDTH = 64
JOINT_WIDTH = 128
TEXT_TOWER = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 2}
SECONDS_PER_LINE = 20
CALIBRATION_IMAGES = 512
QUICK_STEPS, QUICK_BATCH = 10, 32


@dataclass(frozen=True)
class Options:
    """What to train, where and for how long. The defaults are for one GPU."""

    output: Path
    """Folder to write; it must not exist yet."""
    data_root: Path | None = None
    """Folder with cifar10/ and cifar100/, each with train-*.parquet and test-*.parquet; default: the Hub."""
    write_halves: Path | None = None
    """Folder to write both halves of CIFAR-10's training images to; it must not exist yet."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    epochs: int = 150
    """Number of passes over the images."""
    batch_size: int = 512
    """Images per step."""
    rate: float = 1e-3
    """Learning rate at the end of the warm-up."""
    width: int = 192
    """Width of the image tower, a multiple of 64."""
    blocks: int = 9
    """Blocks of the image tower."""
    patch_size: int = 4
    """Patch size in pixels; 8 makes a step about four times as fast but the model less accurate."""
    seed: int = 0
    """Seed of weights, order, views and wordings."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints, which are written next to the output folder."""
    resume: bool = False
    """Continue from the checkpoint of an interrupted training with the same flags."""
    quick: bool = False
    """Run ten steps of 32 images to test the set-up; the model is useless."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "blocks"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("rate", "checkpoint_minutes"):
            value = getattr(self, name)
            require(check_scalar(float, value, name) > 0 and math.isfinite(value), name, value, "a number above 0")
        require(self.width >= 64 and self.width % 64 == 0, "width", self.width, "64, 128, 192 and so on")
        require(self.patch_size in (2, 4, 8, 16), "patch_size", self.patch_size, "2, 4, 8 or 16")

    @property
    def checkpoint(self) -> Path:
        """Path of the checkpoint of an unfinished training."""
        return self.output.with_name(f"{self.output.name}.checkpoint")

    def settings(self) -> dict[str, object]:
        """All settings that determine the steps, except the images and the device."""
        aside = ("output", "data_root", "write_halves", "device", "checkpoint_minutes", "resume")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in aside}

    def command(self) -> str:
        """The command that reproduces the model."""
        default = Options(self.output).settings()
        words = ["python scripts/pretrain_small_clip.py --output small-clip"]
        for name, value in self.settings().items():
            if value != default[name]:
                words.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}"))
        return " ".join(words)


@dataclass(frozen=True)
class Data:
    """Images by use.

    Attributes:
        train: Training images by their name in the model card.
        test: Test images by data set, only for the final numbers.
    """

    train: dict[str, Pixels]
    test: dict[str, Pixels]


def load_data(options: Options) -> Data:
    """CIFAR-100 and half of CIFAR-10; writes both halves if requested."""
    (ten, ten_test), (hundred, hundred_test) = (load_images(f"cifar{n}", options.data_root) for n in (10, 100))
    pretraining, federation = halves(ten)
    if options.write_halves is not None:
        write_halves(options.write_halves, pretraining, federation, ten_test)
        print(f"halves of CIFAR-10: {options.write_halves}", flush=True)
    train = {"CIFAR-100 (train)": hundred, "CIFAR-10 (train, first half)": pretraining}
    return Data(train, {"CIFAR-10": ten_test, "CIFAR-100": hundred_test})


def build_model(tokenizer: PreTrainedTokenizerFast, options: Options) -> CLIPModel:
    """Untrained CLIP of the shape in the options."""
    image = {
        "patch_size": options.patch_size, "hidden_size": options.width, "intermediate_size": 4 * options.width,
        "num_hidden_layers": options.blocks, "num_attention_heads": options.width // HEAD_WIDTH,
    }  # fmt: skip
    torch.manual_seed(derive_seed(options.seed, "pretrain weights"))
    return folder.build_model(tokenizer, image, TEXT_TOWER, JOINT_WIDTH)


def prepare(options: Options, pixels: Pixels, device: torch.device) -> tuple[Training, PreTrainedTokenizerFast]:
    """Training at its first step, and its tokenizer."""
    tokenizer = build_tokenizer(texts(pixels.class_names), VOCABULARY)
    batch_size = QUICK_BATCH if options.quick else options.batch_size
    require(batch_size <= len(pixels), "batch_size", batch_size, f"at most the number of images, {len(pixels)}")
    model = build_model(tokenizer, options)
    torch.nn.Module.to(model, device)
    training = Training(
        model,
        tokenize(tokenizer, pixels.class_names, TEMPLATES, device),
        pixels,
        batch_size=batch_size,
        steps=QUICK_STEPS if options.quick else options.epochs * (len(pixels) // batch_size),
        peak_rate=options.rate,
        seed=options.seed,
    )
    return training, tokenizer


def train(training: Training, checkpoint: Path, settings: dict[str, object], minutes: float) -> None:
    """Run all remaining steps, with a line every 20 seconds and a checkpoint every few minutes.

    Raises:
        RunError: The loss is NaN or infinite, or the checkpoint cannot be written.
    """
    printed = saved = time.perf_counter()
    started, first, before = printed, training.done, training.seconds
    losses: list[Tensor] = []
    while training.done < training.steps:
        losses.append(training.step())
        ended = training.done == training.steps
        if not ended and time.perf_counter() - printed < SECONDS_PER_LINE:
            continue
        # Reading the loss from the device waits for the steps to finish.
        loss = torch.stack(losses).mean().item()
        if not math.isfinite(loss):
            raise RunError(
                f"The loss is {loss} at step {training.done} or just before.", "Start again with a lower --rate."
            )
        printed, losses = time.perf_counter(), []
        training.seconds = before + printed - started
        pace = (printed - started) / (training.done - first)
        left = duration(pace * (training.steps - training.done))
        print(f"step {training.done}/{training.steps}  loss {loss:.3f}  about {left} left", flush=True)
        if ended or printed - saved > 60 * minutes:
            training.save(checkpoint, settings)
            saved = printed


def finish(model: CLIPModel, pixels: Pixels, seed: int) -> CLIPModel:
    """The model with its projection calibrated on some of the training images."""
    some = torch.randperm(len(pixels), generator=torch_generator(seed, "pretrain calibration"))[:CALIBRATION_IMAGES]
    images, _ = on_device(pixels.select(some.numpy()), model.device)
    calibrate_projection(model, folder.normalise(images.float() / 255))
    return model


def measure(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, test: dict[str, Pixels]) -> dict[str, float]:
    """Zero-shot accuracy in percent by data set; test images are used only here."""
    return {
        name: accuracy(model, tokenize(tokenizer, pixels.class_names, (PROMPT,), model.device), pixels)
        for name, pixels in test.items()
    }


def refuse_existing(options: Options) -> None:
    """Raise RunError before doing any work if an output already exists."""
    hints = {options.output: "Choose another --output, or remove it."}
    if not options.resume:
        hints[options.checkpoint] = "Add --resume to continue from it, or remove it to start again."
    if options.write_halves is not None:
        hints[options.write_halves] = "Remove it, or omit --write-halves: the halves are always the same."
    for path, hint in hints.items():
        if path.exists():
            raise RunError(f"{path} already exists.", hint)


def run(options: Options) -> None:
    """Load, train, measure, save."""
    refuse_existing(options)
    device = choose_device(options.device)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    data = load_data(options)
    pixels = joined(list(data.train.values()))
    print(f"{len(pixels):,} images of {len(pixels.class_names)} classes, device {device}", flush=True)
    training, tokenizer = prepare(options, pixels, device)
    settings = options.settings() | {"images": pixels.identity()}
    if options.resume:
        training.load(options.checkpoint, settings)
    train(training, options.checkpoint, settings, options.checkpoint_minutes)
    model = finish(training.averaged, pixels, options.seed)
    accuracies = measure(model, tokenizer, data.test)
    made = Made(
        command=options.command(),
        steps=training.steps,
        batch_size=training.batch_size,
        images={name: len(part) for name, part in data.train.items()},
        seconds=training.seconds,
        device=device,
        accuracies=accuracies,
    )
    with new_folder(options.output) as draft:
        folder.write_model(model, tokenizer, texts(pixels.class_names), model_card(model, made), draft)
    options.checkpoint.unlink()
    for name, value in accuracies.items():
        print(f"zero-shot on the test images of {name}: {value:.1f} %")


def main() -> int:
    """Exit code: 0 for success, 1 for an error in input, data or machine, 130 if interrupted."""
    try:
        run(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
    except FeddtlError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; continue from the last checkpoint with --resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
