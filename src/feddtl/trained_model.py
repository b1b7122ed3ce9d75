"""The model of a run: predictions for images, and embeddings of images and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

import torch
from torch import Tensor

from feddtl.backbones.catalog import load_backbone
from feddtl.checks import joined_lines, require_allowed
from feddtl.config import Experiment
from feddtl.config.class_lists import read_class_names, read_prompt, require_different, split_class_names
from feddtl.data.given_images import GivenImage, Images, given_images
from feddtl.data.table import DEFAULT_PROMPT
from feddtl.data.templates import chosen_prompt
from feddtl.environment import choose_device
from feddtl.errors import ConfigError, RunError
from feddtl.image_stream import OnDamaged, embedded
from feddtl.messages import ServerState
from feddtl.methods.base import Method
from feddtl.methods.catalog import build_method, require_fitting_prompt
from feddtl.methods.classifier import Classifier
from feddtl.methods.task import Task
from feddtl.models.backbone import Backbone
from feddtl.models.class_texts import require_distinct
from feddtl.parsing import parse_table
from feddtl.preparation import method_of_run, model_of_run
from feddtl.prompts import PROMPT, templates_of
from feddtl.record_fields import check_types
from feddtl.run_files import CONFIG
from feddtl.runs import RunFolder
from feddtl.state_folder import AnyPath, expanded
from feddtl.storage import read_whole

TEXTS_TOGETHER = 256
EXPORTED_CLASSES = "classes.json"  # beside an exported model
AS_IT_IS = "{class}"  # a template that adds nothing
Classes = str | Sequence[str] | None


class Prediction(NamedTuple):
    """A class and how likely it is.

    Attributes:
        class_name: Name of the class.
        probability: Its probability among all classes that were to choose from, 0 to 1.
    """

    class_name: str
    probability: float


@dataclass(frozen=True, eq=False, repr=False)
class TrainedModel:
    """A run's model, as `load_trained_model` returns it.

    Images are one or many: paths as texts or `Path`s, Pillow images, arrays (H, W) or (H, W, 3), tensors (3, H, W), or
    any iterable of them. Arrays and tensors have whole numbers 0 to 255 or fractions 0 to 1. All of them are seen as
    image files are.

    Classes are any names: a list, a text such as 'red panda, snow leopard', '@FILE' with one name a line, or None for
    the classes of the run.

        model = feddtl.load_trained_model("runs/first")
        [best] = model.predict("picture.jpg")
        best.class_name, best.probability
        model.predict(["a.jpg", "b.jpg"], ["red panda", "snow leopard"], top_k=2)

    Attributes:
        experiment: The experiment of the run.
        clip: The frozen backbone.
        method: The method, on the run's base classes.
        state: What the server knew after the last finished round.
        classifier: Both towers after that round.
        class_names: All classes of the run's data, base classes first.
    """

    experiment: Experiment
    clip: Backbone
    method: Method
    state: ServerState
    classifier: Classifier
    class_names: tuple[str, ...]

    def __repr__(self) -> str:
        """One line: a notebook prints it, and the weights would be thousands."""
        return (
            f"TrainedModel(method={self.experiment.method!r}, model={self.experiment.model!r}, "
            f"round={self.state.round}, classes={len(self.class_names)})"
        )

    @overload
    def predict(self, images: Images, classes: Classes = None, *, top_k: None = None) -> list[Prediction]: ...
    @overload
    def predict(self, images: Images, classes: Classes = None, *, top_k: int) -> list[list[Prediction]]: ...
    def predict(
        self, images: Images, classes: Classes = None, *, top_k: int | None = None
    ) -> list[Prediction] | list[list[Prediction]]:
        """The most likely class of each image.

        Args:
            images: One or N images; see the class.
            classes: Names to choose from; None for the classes of the run.
            top_k: Number of classes for each image, the most likely first; None: only the best, without a list.

        Returns:
            A prediction, or with `top_k` a list of them, for each image in order; one image gives a list of one.

        Raises:
            ConfigError: No class, a class twice, or `top_k` is not between 1 and the number of classes.
            DataError: An image cannot be read, or the model reads two of the names as the same text.
        """
        found = [best for _, best in self.predictions(given_images(images), classes, top_k=top_k or 1)]
        return [best for best, *_ in found] if top_k is None else found

    def predictions(
        self, images: Iterable[GivenImage], classes: Classes = None, *, top_k: int = 1, damaged: OnDamaged | None = None
    ) -> Iterator[tuple[GivenImage, list[Prediction]]]:
        """`predict` of any number of images in constant memory: each image with its predictions, in order.

        Args:
            images: Images with names, see `feddtl.data.given_images`; read slightly ahead.
            classes: As for `predict`.
            top_k: As for `predict`.
            damaged: Called for each image that cannot be read, which is then left out; None: that is an error.
        """
        names = self.classes(classes)
        if not 1 <= top_k <= len(names):
            raise ConfigError(
                f"top_k = {top_k} is out of range.", f"Allowed: 1 to {len(names)}, the number of classes."
            )
        text = self.encode_classes(names).to(self.clip.text.device)

        def ranked() -> Iterator[tuple[GivenImage, list[Prediction]]]:
            for found, embeddings in self._embedded(images, damaged):
                best = self._probabilities(embeddings, text).topk(top_k)
                for image, positions, values in zip(found, best.indices.tolist(), best.values.tolist(), strict=True):
                    yield image, [Prediction(names[at], value) for at, value in zip(positions, values, strict=True)]

        return ranked()

    def probabilities(self, images: Images, classes: Classes = None) -> Tensor:
        """Probability of each class for each image, (N, C) on the CPU; rows sum to 1. The rest is as in `predict`."""
        text = self.encode_classes(classes).to(self.clip.text.device)
        parts = [self._probabilities(found, text).cpu() for _, found in self._embedded(given_images(images))]
        return torch.cat([torch.empty(0, len(text)), *parts])

    def encode_images(self, images: Images) -> Tensor:
        """Unit embeddings (N, e) of images, on the CPU; see the class. Raises DataError."""
        parts = [found.cpu() for _, found in self._embedded(given_images(images))]
        return torch.cat(parts) if parts else torch.empty(0, self.embedding_width)

    def image_embeddings(
        self, images: Iterable[GivenImage], damaged: OnDamaged | None = None
    ) -> Iterator[tuple[list[GivenImage], Tensor]]:
        """`encode_images` of any number of images in constant memory, some at a time; see `predictions`."""
        for found, embeddings in self._embedded(images, damaged):
            yield found, embeddings.cpu()

    def encode_texts(self, texts: str | Iterable[str], *, in_prompt: bool = False) -> Tensor:
        """Unit embeddings (N, e) of texts, on the CPU.

        Underscores are read as spaces. A method that learns prompts puts its own in front of each text.

        Args:
            texts: One or N texts.
            in_prompt: Whether each takes the place of {class} in the model's prompt; by default, texts are embedded as
                they are.

        Raises:
            ModelError: A text is longer than the model's context.
        """
        every = [texts] if isinstance(texts, str) else list(texts)
        if in_prompt:
            return self._encode_texts(self.classifier, every)
        return self._encode_texts(self.method.with_prompt(AS_IT_IS).classifier(self.state), every)

    def encode_classes(self, classes: Classes = None) -> Tensor:
        """Unit embeddings (C, e) of classes in the run's prompt, on the CPU: the rows that images are compared with.

        Raises:
            ConfigError: No class, or a class twice.
            DataError: The model reads two of the names as the same text.
        """
        names = self.classes(classes)
        require_distinct(self.clip.text, names, self.method.prompt)
        return self._encode_texts(self.classifier, names)

    def classes(self, given: Classes = None) -> tuple[str, ...]:
        """The names of classes as they are given to `predict`. Raises ConfigError."""
        if given is None:
            names: Sequence[str] = self.class_names
        elif isinstance(given, str):
            names = split_class_names(read_class_names(given, "classes"), "classes")
            require_different(names, "classes name")
        else:
            names = given
        if not names:
            raise ConfigError("There is no class to choose from.", "Name one or more: a plain model has none.")
        return tuple(names)

    @property
    def embedding_width(self) -> int:
        """e. FedMGP's embeddings are wider than the towers': a part for each group of prompts that the model has."""
        return self.classifier.text_embeddings(("a",)).shape[1]

    @property
    def note_on_clients(self) -> str:
        """What to tell the user if clients keep a part of the model; empty if they do not."""
        if not self.method.trained_parameters().personal:
            return ""
        return f"{self.experiment.title}: this is the global model without the parts that the clients keep."

    def _encode_texts(self, classifier: Classifier, texts: Sequence[str]) -> Tensor:
        together = max(1, TEXTS_TOGETHER // len(templates_of(self.method.prompt)))
        starts = range(0, len(texts), together)
        parts = [classifier.text_embeddings(texts[start : start + together]).cpu() for start in starts]
        return torch.cat(parts) if parts else torch.empty(0, self.embedding_width)

    def _embedded(
        self, images: Iterable[GivenImage], damaged: OnDamaged | None = None
    ) -> Iterator[tuple[list[GivenImage], Tensor]]:
        return embedded(self.clip.image, self.method.first_image_block, self.classifier, images, damaged)

    def _probabilities(self, embeddings: Tensor, text: Tensor) -> Tensor:
        """softmax(s · cos) of unit embeddings (B, e) and (C, e): (B, C)."""
        return (self.clip.logit_scale * embeddings @ text.T).softmax(dim=-1)


def load_trained_model(
    folder: AnyPath,
    device: str = "auto",
    prompt: str | Sequence[str] = "",
    note: Callable[[str], None] = lambda text: None,
) -> TrainedModel:
    """The model of a run after its last finished round.

        model = feddtl.load_trained_model("runs/first")
        model.predict("picture.jpg")  # among the classes of the run
        model.encode_images(["a.jpg", "b.jpg"]) @ model.encode_texts(["a photo of a cat."]).T

    Of a method whose clients keep a part of the model, this is the global model without any client's part.

    Args:
        folder: Folder of the run, or of a plain model as `export_merged` writes it.
        device: 'auto', 'cpu', 'cuda' or 'mps'; see `ComputeConfig.device`.
        prompt: Template with {class} for the names of classes, or several whose mean is used: a list, lines, or @FILE
            with one a line; 'ensemble' for the usual ones of the run's data set; if empty, the run's own, that of the
            export, or 'a photo of a {class}.' for any other plain model.
        note: Called with notes for the user.

    Raises:
        ConfigError: A template lacks {class} or is there twice, or the method learns its prompt and several are given.
        RunError: There is no run, no finished round, or another model than that of the run.
    """
    path, prompt = expanded(folder), _given_prompt(prompt)
    if _is_plain_model(path):
        return _plain_model(path, device, prompt)
    run = RunFolder.open(path)
    experiment, data = run.experiment, run.data
    clip = model_of_run(run, experiment, device, note)
    clip.use(run.kernels)
    method, state = method_of_run(run, experiment, clip)
    if prompt:
        require_fitting_prompt(experiment.method, prompt)
        method = method.with_prompt(chosen_prompt(prompt, method.prompt, experiment.data.source))
    names = (*data["base_classes"], *data["novel_classes"])
    return TrainedModel(experiment, clip, method, state, method.classifier(state), names)


def _given_prompt(prompt: str | Sequence[str]) -> str:
    """A prompt as a person gives it, with the templates of a file. Raises ConfigError."""
    text = read_prompt(joined_lines(prompt, [PROMPT]), "prompt")
    require_allowed(PROMPT, "prompt", text)
    return text


def _is_plain_model(folder: Path) -> bool:
    """Whether a folder has a model in Hugging Face's format, whose configuration has the name of a run's."""
    try:
        return "model_type" in parse_table((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return False


def _plain_model(folder: Path, device: str, prompt: str) -> TrainedModel:
    """A model in Hugging Face's format, with the classes and the prompt that an export has beside it."""
    names, own = _exported_classes(folder / EXPORTED_CLASSES)
    prompt = chosen_prompt(prompt, own, "")
    experiment = Experiment(method="zero-shot", model=str(folder))
    clip = load_backbone(folder, choose_device(device))
    method = build_method(Task(clip, names, prompt, experiment.seed), experiment)
    state = method.init_server()
    return TrainedModel(experiment, clip, method, state, method.classifier(state), names)


def _exported_classes(file: Path) -> tuple[tuple[str, ...], str]:
    """Names and prompt beside an exported model; no name, and the usual prompt, if there is no such file."""
    if not file.is_file():
        return (), DEFAULT_PROMPT
    try:
        found = parse_table(read_whole(file))
        check_types({"class_names": Sequence[str], "prompt_template": str}, found)
        return tuple(found["class_names"]), found["prompt_template"]
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{file} is damaged: {error}.", "Export the run again, or remove the file.") from None
