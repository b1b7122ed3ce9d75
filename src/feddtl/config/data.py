"""Which images, and how they are divided among clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from feddtl.checks import TEMPLATE, Above, AtLeast, Rule, Settings, require
from feddtl.errors import ConfigError

ON_CLIENTS = "clients"
SHAPES = "shapes"
Regime = Literal["few-shot", "full"]
NovelClasses = Literal["pairs", "shapes", "colours"]
PartitionKind = Literal["non-iid", "dirichlet", "iid", "domain", "domain-dirichlet"]


@dataclass(frozen=True)
class DataConfig(Settings, table="data"):
    """Which images, and how they are divided among clients."""

    source: Annotated[str, Rule(bool, "a name, a Hub id or a folder")] = SHAPES
    """Catalogue name, Hub id (owner/name), local folder of images or parquet files, 'shapes', or 'clients': each client
    has its own images, over Flower."""
    classes: str = ""
    """Comma-separated names of the classes to train on; required by source 'clients' and refused by any other; empty:
    those of the source."""
    novel_classes: str = ""
    """Comma-separated names of classes to score without training on them, only with source 'clients'; empty: none, or
    those of the source."""
    root: str = ""
    """Folder with one sub-folder of parquet files or images per data set; `source` is looked up there by name, ignoring
    case and punctuation; empty: the Hub, or the path that `source` is."""
    domains: str = ""
    """Comma-separated domain names to use; empty: all domains of the source."""
    novel: NovelClasses = "pairs"
    """What is new in the novel classes of source 'shapes': only the 'pairs' of colour and shape, the 'shapes', or the
    'colours' (ours); other sources have their own order of classes."""
    prompt: Annotated[str, TEMPLATE] = ""
    """Prompt with {class} in place of the class name; empty: the source's own ('a photo of a {class}.')."""
    image_column: str = ""
    """Image column of a Hub or parquet source; empty: detected by type."""
    label_column: str = ""
    """Label column; empty: detected by type and name."""
    domain_column: str = ""
    """Domain column; empty: 'domain', if it exists."""
    regime: Regime = "few-shot"
    """'few-shot': `shots` training images per base class; 'full': all of them (both in the paper)."""
    shots: Annotated[int, AtLeast(1)] = 16
    """Training images per base class in the few-shot regime (paper: 16)."""
    partition: PartitionKind = "non-iid"
    """How base training images are divided among clients (paper: non-iid and dirichlet; domain for feature shift)."""
    alpha: Annotated[float, Above(0)] = 0.1
    """Concentration of the Dirichlet partitions (paper: 0.1)."""
    clients: Annotated[int, AtLeast(1)] = 5
    """Number of clients K (paper: 5)."""
    views: Annotated[int, AtLeast(1)] = 1
    """Fixed views of each training image, one per round in turn: the test transform, then random crops
    with flips (ours: 1, no augmentation)."""
    min_images: Annotated[int, AtLeast(0, meaning="automatic")] = 0
    """Minimum training images per client under the Dirichlet partitions; 0: 8, or a quarter of the mean
    if that is less (ours)."""
    test_images_per_class: Annotated[int, AtLeast(0, meaning="all")] = 0
    """Maximum test images of each class in each domain, the same for every seed; 0: all (paper: all)."""

    @property
    def on_clients(self) -> bool:
        """Whether each client has images of its own, so that there are none to divide among them."""
        return self.source == ON_CLIENTS

    @property
    def class_lists(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names in `classes` and in `novel_classes`."""
        base, novel = (
            tuple(name for entry in names.split(",") if (name := " ".join(entry.replace("_", " ").split())))
            for names in (self.classes, self.novel_classes)
        )
        return base, novel

    @property
    def is_dirichlet(self) -> bool:
        """Whether the partition draws its proportions from a Dirichlet distribution, so that `alpha` counts."""
        return self.partition in ("dirichlet", "domain-dirichlet")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_classes()
        if self.novel != "pairs" and self.source != SHAPES:
            raise ConfigError(
                f"data.novel = {self.novel!r} cannot be set with data.source = {self.source!r}, whose order of classes "
                "determines which are novel.",
                "Set data.novel = 'pairs' and data.domains = '' (flags: --data.novel pairs --data.domains \"\"), start "
                f"from experiments/own_images.toml, which sets neither, or set data.source = '{SHAPES}'.",
            )

    def _check_classes(self) -> None:
        """Raise ConfigError for class lists of any other source, or for images on clients without class lists."""
        if not self.on_clients:
            for key, names in (("classes", self.classes), ("novel_classes", self.novel_classes)):
                if names:
                    raise ConfigError(
                        f"data.{key} = {names!r} cannot be set with data.source = {self.source!r}, which has classes.",
                        f"Omit it, or set data.source = '{ON_CLIENTS}'.",
                    )
            return
        base, novel = self.class_lists
        require(len(base) >= 2, "data.classes", self.classes, "two or more names, separated by commas")
        keys = [name.casefold() for name in (*base, *novel)]
        twice = next((name for name, key in zip((*base, *novel), keys, strict=True) if keys.count(key) > 1), None)
        if twice is not None:
            raise ConfigError(
                f"data.classes and data.novel_classes name '{twice}' twice.",
                "Name each class only once, in one of the two lists.",
            )
        if self.root:
            raise ConfigError(
                f"data.root = {self.root!r} cannot be set with data.source = '{ON_CLIENTS}'.",
                "Leave it out, and tell each client where its images are with `feddtl client --data PATH`.",
            )
