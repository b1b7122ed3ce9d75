"""Both towers and a classifier of a run's classes in ONNX, which run without torch."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from feddtl.errors import ConfigError, RunError
from feddtl.export.card import write_card
from feddtl.export.class_embeddings import EMBEDDINGS, write_class_embeddings
from feddtl.export.merged import merge_adapters
from feddtl.export.run_model import Note, RunModel, open_run_model
from feddtl.methods.base import Method
from feddtl.models.preprocess import plain_transform
from feddtl.state_folder import AnyPath, expanded
from feddtl.storage import new_folder

IMAGE_TOWER, TEXT_TOWER, CLASSIFIER = "image_tower.onnx", "text_tower.onnx", "classifier.onnx"
SCRIPT = "classify.py"
OPSET = 18
LARGEST_DIFFERENCE = 1e-4
"""Between torch and onnxruntime, of an embedding's components or of a probability; kernels differ by about 1e-6."""
Head = Callable[[Tensor], Tensor]


class ImageTower(nn.Module):
    """(B, 3, H, W) pixel values to (B, e) unit embeddings.

    Args:
        model: With `get_image_features`, as a CLIPModel.
        head: What a method does to the projected features.
    """

    def __init__(self, model: Any, head: Head) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(self, pixel_values: Tensor) -> Tensor:
        features = self.model.get_image_features(pixel_values=pixel_values).pooler_output
        return normalize(self.head(features), dim=-1)


class TextTower(nn.Module):
    """(C, S) token ids to (C, e) unit embeddings; what follows the end of a text is not read."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return normalize(self.model.get_text_features(input_ids=input_ids).pooler_output, dim=-1)


class ClassProbabilities(nn.Module):
    """(B, 3, H, W) pixel values to (B, C) probabilities: softmax(s · image embeddings · class embeddings^T)."""

    def __init__(self, tower: ImageTower, classes: Tensor, scale: float) -> None:
        super().__init__()
        self.tower, self.scale = tower, scale
        self.classes: Tensor
        self.register_buffer("classes", classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.scale * self.tower(pixel_values) @ self.classes.T
        return logits.softmax(dim=-1)


def export_onnx(folder: AnyPath, output: AnyPath, note: Note = lambda text: None) -> None:
    """Write a run's image tower, text tower and classifier in ONNX, and all that is needed to use them without torch.

    Every model takes any number of images or texts. It is compared with torch in onnxruntime before the folder appears.
    A method with texts of its own, such as learned prompts, gets no text tower; its class embeddings contain them.

    Args:
        folder: Of the run.
        output: New folder.
        note: Called with notes for the user.

    Raises:
        ConfigError: onnx or onnxruntime is not installed.
        RunError: As `feddtl.export_merged`; a method is refused only if it changes the blocks of the image tower by
            more than LoRA.
    """
    _require_packages()
    folder, output = expanded(folder), expanded(output)
    source = open_run_model(folder, output, note)
    # Before the merge, after which the adapters would count twice.
    classes = source.classifier.text_embeddings(source.class_names).clone()
    image = ImageTower(source.clip.model, _head(source))
    has_text = bool(source.method.adapters(source.state)) or _text_is_frozen(source.method)
    with new_folder(output) as draft, torch.no_grad():
        write_class_embeddings(source, draft)
        merge_adapters(source)
        pixels = torch.rand(3, 3, *_image_size(source), generator=torch.Generator().manual_seed(0))
        _write(image, draft / IMAGE_TOWER, {"pixel_values": pixels}, "image_embeds")
        _write(
            ClassProbabilities(image, classes, source.clip.logit_scale),
            draft / CLASSIFIER,
            {"pixel_values": pixels},
            "probabilities",
        )
        if has_text:
            ids, _ = source.clip.text.tokenize(["a photo of a cat.", "a dog", "one two three four five"])
            _write(TextTower(source.clip.model), draft / TEXT_TOWER, {"input_ids": ids}, "text_embeds")
            source.clip.tokenizer.save_pretrained(draft)
        else:
            note(
                f"'{source.run.experiment.method}' has texts of its own, so there is no {TEXT_TOWER} for other texts; "
                f"{EMBEDDINGS} has the classes."
            )
        source.clip.processor.save_pretrained(draft)
        if plain_transform(source.clip.processor):
            shutil.copyfile(Path(__file__).parents[1] / "assets" / SCRIPT, draft / SCRIPT)
        else:
            note(f"The preprocessing of this model has unusual steps, so there is no {SCRIPT}.")
        source.write_classes(draft)
        write_card(source, draft, "onnx", note)


def _head(source: RunModel) -> Head:
    """What the method does to features of the merged image tower. Raises RunError if it changes blocks otherwise."""
    if source.method.adapters(source.state):
        return nn.Identity()
    if source.method.first_image_block == len(source.clip.image.stack):
        return source.classifier.encode_images
    raise RunError(
        f"{source.run.path} is a run of '{source.run.experiment.method}', which changes blocks of the image tower by "
        "more than LoRA that can be merged into their weights.",
        f"Export the class embeddings (--format embeddings), or use the run: `feddtl evaluate {source.run.path}`.",
    )


def _text_is_frozen(method: Method) -> bool:
    return type(method).text_features is Method.text_features


def _image_size(source: RunModel) -> tuple[int, int]:
    """Height and width of the images that the tower takes."""
    config = source.clip.model.config.vision_config
    return (config.image_size, config.image_size)


def _write(model: nn.Module, path: Path, inputs: dict[str, Tensor], output: str) -> None:
    """Trace a model into a file whose first dimension is free, as is the length of texts, and check it."""
    (name, example), *_ = inputs.items()
    free = {0: "batch"} if example.is_floating_point() else {0: "batch", 1: "sequence"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about shapes that are constant here
        # torch.export takes 15 s for a tower of two blocks where the tracer takes 1 s, and needs onnxscript.
        torch.onnx.export(
            model.eval(),
            (example,),
            path,
            input_names=[name],
            output_names=[output],
            dynamic_axes={name: free, output: {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
    # Fewer rows than in the trace, and shorter ones: a size that the tracer took for a constant would show.
    other = example[:2] if example.is_floating_point() else example[:2, : max(2, example.shape[1] - 1)]
    _require_equal(model, path, name, other)


def _require_equal(model: nn.Module, path: Path, name: str, example: Tensor) -> None:
    """Raise RunError if onnxruntime computes something else than torch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {name: example.numpy()})[0])
    difference = float((found - model(example)).abs().max())
    if not difference <= LARGEST_DIFFERENCE:
        raise RunError(
            f"{path.name} differs from the model by {difference:.1e} in onnxruntime; nothing was written.",
            "Update torch and onnxruntime. If it remains, report it with the output of `feddtl doctor`.",
        )


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"--format onnx needs onnx and onnxruntime: {error}.", "Install them: `pip install 'feddtl[onnx]'`"
        ) from None
