"""The models and images of both sides: random CLIPs of real shapes, and generated images; no network is needed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.reference_parts import Federation, Images
from feddtl.config import DataConfig
from feddtl.data.federated import load_federated_data
from feddtl.data.table import ImageTable

WORK = Path(__file__).parent / ".work"
END_OF_TEXT = 49407
# CIFAR-100's classes: one or two words each, as in most label sets.
NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
""".split()  # noqa: SIM905
PROMPT = "a photo of a {class}."


@dataclass(frozen=True)
class Shape:
    """Sizes of a CLIP; `image` and `text` are (width, blocks, heads, MLP width)."""

    name: str
    image: tuple[int, int, int, int]
    text: tuple[int, int, int, int]
    side: int
    patch: int
    joint: int

    @property
    def tokens(self) -> int:
        """Image tokens S, with the class token."""
        return (self.side // self.patch) ** 2 + 1


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", (32, 4, 4, 64), (32, 3, 4, 64), 16, 8, 24),
        Shape("vit-b-16", (768, 12, 12, 3072), (512, 12, 8, 2048), 224, 16, 512),
        Shape("vit-l-14", (1024, 24, 16, 4096), (768, 12, 12, 3072), 224, 14, 768),
    )
}


@dataclass(frozen=True)
class Workload:
    """A federated run: half of `classes` are base, the rest novel.

    Attributes:
        shape: Name in `SHAPES`.
        classes: Base and novel classes together.
        shots: Training images per base class.
        tests: Test images per class.
        clients: K.
        rounds: T; the first half is SFT.
        side: Pixels of a stored image; 0: as the model expects.
        device: Where to run.
        work: Folder of models and images.
    """

    shape: str = "vit-b-16"
    classes: int = 20
    shots: int = 16
    tests: int = 10
    clients: int = 5
    rounds: int = 20
    side: int = 0
    device: str = "cpu"
    work: str = str(WORK)

    @property
    def model(self) -> Path:
        """Folder of the model, written on first use."""
        return _once(Path(self.work) / f"clip-{self.shape}", lambda folder: write_clip(folder, SHAPES[self.shape]))

    @property
    def images(self) -> Path:
        """Folder of the images, written on first use."""
        side = self.side or SHAPES[self.shape].side
        name = f"images-{side}px-{self.classes}x{self.shots}+{self.tests}"
        return _once(Path(self.work) / name, lambda folder: self._write_images(folder, side))

    @property
    def data(self) -> DataConfig:
        """The same images, split and partition for both sides."""
        return DataConfig(
            class_split="half", source=str(self.images), shots=self.shots, clients=self.clients, prompt=PROMPT
        )

    def scaled(self, **changes: Any) -> Workload:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def _write_images(self, folder: Path, side: int) -> None:
        for label, name in enumerate(class_names(self.classes)):
            for split, count in (("train", self.shots), ("test", self.tests)):
                (folder / split / name).mkdir(parents=True)
                for index in range(count):
                    picture = draw(label, index + (split == "test") * 1_000_000, side)
                    picture.save(folder / split / name / f"{index:04}.jpg", quality=90)


def class_names(count: int) -> list[str]:
    """Class names, sorted as the folder loader takes them; a second hundred gets an adjective."""
    return sorted([*NAMES, *(f"old_{name}" for name in NAMES)][:count])


def _once(folder: Path, write: Any) -> Path:
    """The folder, which is created completely or not at all."""
    if not folder.is_dir():
        draft = folder.with_name(folder.name + ".draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        write(draft)
        draft.rename(folder)
    return folder


def draw(label: int, index: int, side: int) -> Image.Image:
    """A noisy grating whose colour, direction and period belong to the class; phase and noise to the image."""
    style, rng = np.random.default_rng(label), np.random.default_rng((label, index))
    colour = style.uniform(60, 195, size=3)
    angle, waves = style.uniform(0, np.pi), style.uniform(2, 12)
    y, x = np.mgrid[:side, :side] / side
    grating = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 2 * np.pi))
    pixels = colour + 40 * grating[..., None] + rng.normal(0, 20, size=(side, side, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_clip(folder: Path, shape: Shape) -> None:
    """CLIP with random weights of unit gain, so that outputs depend on every block; logit scale 100."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    vision = dict(zip(keys, shape.image, strict=True), image_size=shape.side, patch_size=shape.patch)
    text = dict(zip(keys, shape.text, strict=True), bos_token_id=END_OF_TEXT - 1, eos_token_id=END_OF_TEXT)
    config = CLIPConfig(
        vision_config={**vision, "projection_dim": shape.joint},
        text_config={**text, "projection_dim": shape.joint, "vocab_size": END_OF_TEXT + 1, "pad_token_id": END_OF_TEXT},
        projection_dim=shape.joint,
    )
    model: Any = CLIPModel(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "logit_scale":
                parameter.fill_(100.0).log_()
            elif "embedding" in name:
                parameter.normal_(0, 0.1, generator=generator)
            elif parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    side = {"height": shape.side, "width": shape.side}
    CLIPImageProcessorPil(size={"shortest_edge": shape.side}, crop_size=side).save_pretrained(folder)


def build_tokenizer() -> Any:
    """One token per word, as CLIP's gives for common words; ids of begin and end as in CLIP's vocabulary."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for name in (*NAMES, "a_photo_of_old", ".") for word in name.split("_")} | set("bcdefgh"))
    ends = {"<|startoftext|>": END_OF_TEXT - 1, "<|endoftext|>": END_OF_TEXT}
    vocabulary = {"<|unknown|>": 0, **{word: index for index, word in enumerate(words, start=1)}, **ends}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=list(ends.items())
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        unk_token="<|unknown|>",
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=77,
    )


def load_federation(workload: Workload, seed: int = 0) -> Federation:
    """The reference loop's images, read and preprocessed by as many threads as there are."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    data = load_federated_data(workload.data, seed)
    processor = CLIPImageProcessorPil.from_pretrained(workload.model)

    def read(table: ImageTable) -> Images:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            rows = pool.map(lambda i: processor(table.read(i), return_tensors="pt")["pixel_values"], range(len(table)))
            return Images(torch.cat(list(rows)), torch.from_numpy(table.labels))

    return Federation(
        [read(data.train.select(positions)) for positions in data.partition.train],
        read(data.test_base),
        read(data.test_novel),
        [torch.from_numpy(positions) for positions in data.partition.test],
        prompts(data.base_names),
        prompts(data.novel_names),
    )


def prompts(names: Sequence[str]) -> list[str]:
    """The prompt of each class."""
    return [PROMPT.replace("{class}", name.replace("_", " ")) for name in names]
