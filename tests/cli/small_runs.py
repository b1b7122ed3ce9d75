"""A random CLIP of two blocks and folders of small pictures: a whole run takes a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from edited_runs import tables
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from feddtl.backbones.source import EMBEDDED_FOLDER
from feddtl.cli import main
from feddtl.config import DataConfig, Experiment, LocalConfig

SIDE = 16
CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")
CLIENTS = 3
ROUNDS = 4
LEARNING_RATE = 0.01


class Answer(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


@dataclass(frozen=True)
class Bench:
    """What every small run needs: three clients with a base class each, as many novel classes, four rounds."""

    clip: Path
    photos: Path

    def flags(self, *more: object) -> list[str]:
        """The run as flags; later ones win."""
        return [
            *("--model", str(self.clip), "--data.source", str(self.photos), "--data.clients", str(CLIENTS)),
            *("--data.class-split", "half"),
            *("--rounds", str(ROUNDS), "--local.learning-rate", str(LEARNING_RATE)),
            *map(str, more),
        ]

    def experiment(self, **changes: Any) -> Experiment:
        """The same as a value."""
        settings: dict[str, Any] = {
            "model": str(self.clip),
            "rounds": ROUNDS,
            "data": DataConfig(source=str(self.photos), clients=CLIENTS, class_split="half"),
            "local": LocalConfig(learning_rate=LEARNING_RATE),
        }
        return Experiment(**{**settings, **changes})

    def run(self, output: Path, *more: object) -> Path:
        """A finished run; returns its folder."""
        assert main(["run", *self.flags("--output", output, "--quiet", *more)]) == 0
        return output


def make_bench(root: Path) -> Bench:
    """Model and pictures in a new folder."""
    return Bench(write_clip(root / "clip"), write_photos(root / "photos"))


def write_clip(folder: Path) -> Path:
    """A random CLIP in Hugging Face format, with the embedded model's tokenizer."""
    shared = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = {**CLIPConfig.from_pretrained(EMBEDDED_FOLDER).text_config.to_dict(), **shared}
    vision = {**shared, "image_size": SIDE, "patch_size": 8}
    generator = torch.Generator().manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or name.endswith("class_embedding"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(EMBEDDED_FOLDER).save_pretrained(folder)
    side = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=side).save_pretrained(folder)
    return folder


def write_photos(
    root: Path, *, classes: Sequence[str] = CLASSES, train: int = 5, test: int = 3, domain: str = ""
) -> Path:
    """PNG pictures as root/train/CLASS/0.png, with a domain root/train/DOMAIN/CLASS/0.png, and root/test alike."""
    for position, name in enumerate(classes):
        colour = np.random.default_rng(position).integers(30, 226, size=3)
        for split, count in (("train", train), ("test", test)):
            folder = root / split / domain / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = np.random.default_rng([position, number, count]).integers(-30, 31, size=(SIDE, SIDE, 3))
                Image.fromarray((colour + noise).astype(np.uint8)).save(folder / f"{number}.png")
    return root


def refused(answer: Answer, *needles: str) -> None:
    """One error, its next step, and nothing else."""
    assert answer.code == 1
    assert answer.out == ""
    # Most of these commands name no experiment file, which is said first.
    first, *hint = [line for line in answer.err.splitlines() if not line.startswith("note: No experiment file")]
    assert first.startswith("error: ")
    assert hint
    assert "Traceback" not in answer.err
    for needle in needles:
        assert needle in answer.err


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its relative path, to show that nothing was changed; a log also names attempts."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "log.jsonl"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def records(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the times, which no two runs share, and without the checksums, which are of them too."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in tables(run / "metrics.jsonl")]


def summary(run: Path) -> dict[str, Any]:
    """summary.json without its checksum."""
    return tables(run / "summary.json")[0]


def final_state(run: Path) -> dict[str, Tensor]:
    """Tensors of the last checkpoint."""
    return load_file(max((run / "checkpoints").iterdir()) / "state.safetensors")


def outcome(run: Path) -> dict[str, object]:
    """All that two runs of the same experiment must share to the last bit: metrics, state, adapters and predictions."""
    timed = {"seconds", "seconds_by_phase"}
    last = max((run / "checkpoints").iterdir())
    return {
        "records": records(run),
        "summary": {key: value for key, value in summary(run).items() if key not in timed},
        "last checkpoint": last.name,
        "state": (last / "state.safetensors").read_bytes(),
        "adapters": contents(run / "adapter"),
        "curves": (run / "accuracy.svg").read_bytes(),
        "data": (run / "data.json").read_bytes(),
        "predictions": (run / "predictions.safetensors").read_bytes(),
        "config": (run / "config.json").read_bytes(),
    }
