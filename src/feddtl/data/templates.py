"""The usual prompt templates of data sets, and the prompt that an experiment asks for.

Most of them are those of CLIP's authors (Radford et al. 2021, section 3.1.4), who average up to 80; these lists are
short, because every template costs the text tower a text for each class.
"""

from __future__ import annotations

from collections.abc import Mapping

from feddtl.checks import names_a_file
from feddtl.config.protocol import SHAPES, alphanumeric
from feddtl.errors import ConfigError
from feddtl.prompts import ENSEMBLE, templates_of
from feddtl.units import first_few

# Seven of CLIP's 80 for ImageNet that its authors found to do nearly as well as all.
GENERAL = (
    "itap of a {class}.",
    "a bad photo of the {class}.",
    "a origami {class}.",
    "a photo of the large {class}.",
    "a {class} in a video game.",
    "art of the {class}.",
    "a photo of the small {class}.",
)
PHOTOS = (
    "a photo of a {class}.",
    "a photo of the {class}.",
    "a blurry photo of a {class}.",
    "a low contrast photo of a {class}.",
    "a bad photo of a {class}.",
    "a good photo of a {class}.",
    "a photo of a small {class}.",
    "a photo of a big {class}.",
)
PICTURES = (
    "a photo of a {class}.",
    "a painting of a {class}.",
    "a sketch of a {class}.",
    "a drawing of a {class}.",
    "a cartoon {class}.",
    "a sculpture of a {class}.",
    "a toy {class}.",
    "art of a {class}.",
)
SATELLITE = (
    "a centered satellite photo of {class}.",
    "a centered satellite photo of a {class}.",
    "a centered satellite photo of the {class}.",
)
# With what tiny-clip was trained on.
COLOURED_SHAPES = (
    "a photo of a {class}.",
    "a photo of the {class}.",
    "a picture of a {class}.",
    "an image of a {class}.",
    "a drawing of a {class}.",
    "this is a {class}.",
)


def _of_a_kind(kind: str, article: str = "a ") -> tuple[str, ...]:
    """Four templates; `article` is what stands before the class name."""
    photos = ("a photo of ", "a close-up photo of ", "a good photo of ")
    forms = (*(photo + article for photo in photos), "a photo of the ")
    return tuple(f"{form}{{class}}, a type of {kind}." for form in forms)


USUAL: Mapping[str, tuple[str, ...]] = {
    SHAPES: COLOURED_SHAPES,
    "cifar10": PHOTOS,
    "cifar100": PHOTOS,
    "eurosat": SATELLITE,
    "tiny-imagenet": GENERAL,
    "oxford-pets": _of_a_kind("pet"),
    "flowers102": _of_a_kind("flower"),
    "caltech101": PICTURES,
    "caltech256": PICTURES,
    "food101": _of_a_kind("food", article=""),
    "domainnet": PICTURES,
    "officecaltech10": PHOTOS,
    "pacs": PICTURES,
}
"""By name of the data set; any other source has `GENERAL`."""


def usual_templates(source: str) -> tuple[str, ...]:
    """The templates that `data.prompt = "ensemble"` stands for, by `data.source`."""
    known = {alphanumeric(name): templates for name, templates in USUAL.items()}
    return known.get(alphanumeric(source), GENERAL)


def chosen_prompt(asked: str, own: str, source: str) -> str:
    """The prompt of an experiment: its templates, one a line.

    Args:
        asked: `data.prompt`.
        own: The prompt if none is asked for.
        source: `data.source`.

    Raises:
        ConfigError: It names a file of templates that was not read.
    """
    if names_a_file(asked):
        raise ConfigError(f"data.prompt = {asked!r} is a file that was not read.", "Give the templates themselves.")
    if not asked:
        return own
    return "\n".join(usual_templates(source) if asked == ENSEMBLE else templates_of(asked))


def ensemble_note(prompt: str) -> str:
    """A note on the templates of a prompt that has several; '' for one."""
    templates = templates_of(prompt)
    if len(templates) == 1:
        return ""
    named = first_few([f"'{template}'" for template in templates], 3)
    return f"The text of a class is the mean of {len(templates)} prompts: {named}."
