"""Which images, and how they are divided among clients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from feddtl.checks import Above, AtLeast, Rule, Settings, names_a_file, require
from feddtl.config.class_lists import (
    OTHERS,
    read_class_names,
    read_prompt,
    require_different,
    split_class_names,
)
from feddtl.config.protocol import SHAPES, follows_protocol
from feddtl.errors import ConfigError
from feddtl.prompts import PROMPT

ON_CLIENTS = "clients"
SITES = "sites"
CLIENTS = 5
Regime = Literal["few-shot", "full"]
NovelClasses = Literal["pairs", "shapes", "colours"]
ClassSplit = Literal["auto", "half", "share", "none"]
PartitionKind = Literal["non-iid", "dirichlet", "iid", "domain", "domain-dirichlet", "sites"]


@dataclass(frozen=True)
class DataConfig(Settings, table="data"):
    """Which images, and how they are divided among clients."""

    source: Annotated[str, Rule(bool, "a name, a Hub id or a folder")] = SHAPES
    """Catalogue name, Hub id (owner/name), local folder of images or parquet files, 'shapes', or 'clients': each client
    has its own images, over Flower."""
    classes: str = ""
    """Names of the classes to train on: separated by commas, a name with a comma in double quotes, or @FILE with one
    name a line; empty: all but `novel_classes` or, without either list, see `class_split`. Needed by source
    'clients'."""
    novel_classes: str = ""
    """Names of the classes to score without training on them, as in `classes`; 'others': all that are not in `classes`;
    empty: none or, without `classes`, see `class_split`."""
    class_split: ClassSplit = "auto"
    """Which classes are novel where no list says so; 'half': the second half in the source's order (paper); 'share':
    `novel_share` of them at random; 'none': all classes are trained; 'auto': 'half' for 'shapes' and the catalogue,
    'none' for any other source."""
    novel_share: Annotated[float, Above(0, below=1)] = 0.5
    """Fraction of the classes that is novel with class_split 'share', at least one class (ours)."""
    class_seed: Annotated[int, AtLeast(0, up_to=2**31 - 1)] = 0
    """Seed that draws the novel classes of class_split 'share', apart from the run's seed, so that all seeds have the
    same classes (ours)."""
    root: str = ""
    """Folder with one sub-folder of parquet files or images per data set; `source` is looked up there by name, ignoring
    case and punctuation; empty: the Hub, or the path that `source` is."""
    domains: str = ""
    """Comma-separated domain names to use; empty: all domains of the source."""
    novel: NovelClasses = "pairs"
    """What is new in the novel classes of source 'shapes': only the 'pairs' of colour and shape, the 'shapes', or the
    'colours' (ours); other sources have their own order of classes."""
    prompt: Annotated[str, PROMPT] = ""
    """Prompt with {class} in place of the class name; several, as a list or one a line: the text of a class is their
    mean; 'ensemble': the usual ones of the source; empty: the source's own ('a photo of a {class}.')."""
    image_column: str = ""
    """Image column of a Hub or parquet source; empty: detected by type."""
    label_column: str = ""
    """Label column; empty: detected by type and name."""
    domain_column: str = ""
    """Domain column; empty: 'domain', if it exists."""
    site_column: str = ""
    """Column that names the site of each row, only with partition 'sites'; empty: 'site'."""
    regime: Regime = "few-shot"
    """'few-shot': `shots` training images per base class; 'full': all of them (both in the paper)."""
    shots: Annotated[int, AtLeast(1)] = 16
    """Training images per base class in the few-shot regime (paper: 16)."""
    partition: PartitionKind = "non-iid"
    """How base training images are divided among clients (paper: non-iid and dirichlet; domain for feature shift).
    'sites': they are not; each client is a site of the source, as in a federation (ours)."""
    alpha: Annotated[float, Above(0)] = 0.1
    """Concentration of the Dirichlet partitions (paper: 0.1)."""
    clients: Annotated[int | Literal["auto"], AtLeast(1)] = "auto"
    """Number of clients K; 'auto': 5 (paper), or with partition 'sites' the number of sites."""
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
    def by_site(self) -> bool:
        """Whether each client is a site of the source."""
        return self.partition == SITES and not self.on_clients

    @property
    def each_has_own(self) -> bool:
        """Whether each client has test images of its own, of base and novel classes."""
        return self.on_clients or self.by_site

    @property
    def client_count(self) -> int:
        """Number of clients; 0 where the images alone say how many sites there are."""
        if isinstance(self.clients, int):
            return self.clients
        return 0 if self.by_site else CLIENTS

    @property
    def class_lists(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names in `classes` and in `novel_classes`; none for 'others'. Raises ConfigError for a file of names."""
        for key, text in (("classes", self.classes), ("novel_classes", self.novel_classes)):
            if names_a_file(text):
                raise ConfigError(f"data.{key} = {text!r} is a file that was not read.", "Give the names themselves.")
        novel = () if self.others_are_novel else split_class_names(self.novel_classes, "data.novel_classes")
        return split_class_names(self.classes, "data.classes"), novel

    @property
    def split(self) -> Literal["listed", "half", "share", "none"]:
        """What decides which classes are trained, with 'auto' resolved."""
        if self.has_class_lists:
            return "listed"
        if self.class_split != "auto":
            return self.class_split
        return "half" if follows_protocol(self.source, self.root) else "none"

    @property
    def class_choice(self) -> str:
        """Which classes were chosen, in words; '' for those that the source has by default."""
        if self.has_class_lists:
            chosen = [f"classes {self.classes}"] if self.classes else []
            return "; ".join(chosen + ([f"novel {self.novel_classes}"] if self.novel_classes else []))
        if self.split == replace(self, class_split="auto", novel_share=0.5, class_seed=0).split:
            return ""
        if self.split == "share":
            return f"{100 * self.novel_share:g}% of the classes novel (class seed {self.class_seed})"
        return "half of the classes novel" if self.split == "half" else "no novel class"

    @property
    def others_are_novel(self) -> bool:
        """Whether all classes that are not listed in `classes` are novel."""
        return self.novel_classes.strip() == OTHERS

    @property
    def has_class_lists(self) -> bool:
        """Whether a list says which classes are trained or novel."""
        return bool(self.classes or self.novel_classes)

    def with_files_read(self) -> DataConfig:
        """The same with the lines of each file of class names or prompts in place of the file. Raises ConfigError."""
        base = read_class_names(self.classes, "data.classes")
        novel = read_class_names(self.novel_classes, "data.novel_classes")
        prompt = read_prompt(self.prompt, "data.prompt")
        return replace(self, classes=base, novel_classes=novel, prompt=prompt)

    @property
    def is_dirichlet(self) -> bool:
        """Whether the partition draws its proportions from a Dirichlet distribution, so that `alpha` counts."""
        return self.partition in ("dirichlet", "domain-dirichlet")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_classes()
        self._check_sites()
        if self.novel != "pairs" and self.source != SHAPES:
            raise ConfigError(
                f"data.novel = {self.novel!r} cannot be set with data.source = {self.source!r}, whose order of classes "
                "determines which are novel.",
                "Set data.novel = 'pairs' and data.domains = '' (flags: --data.novel pairs --data.domains \"\"), start "
                f"from experiments/own_images.toml, which sets neither, or set data.source = '{SHAPES}'.",
            )

    def _check_sites(self) -> None:
        """Raise ConfigError for sites of generated images, and for a column of sites without sites."""
        if self.by_site and self.source == SHAPES:
            raise ConfigError(
                f"data.partition = '{SITES}' cannot be set with data.source = '{SHAPES}', whose images have no site.",
                "Set data.source to a folder with a sub-folder for each site, or choose another partition.",
            )
        if self.site_column and self.partition != SITES:
            raise ConfigError(
                f"data.site_column = {self.site_column!r} cannot be set with data.partition = {self.partition!r}, "
                "which has no sites.",
                f"Omit it, or set data.partition = '{SITES}'.",
            )

    def _check_classes(self) -> None:
        """Raise ConfigError for lists and a split that contradict each other, or for images on clients without lists.

        A file of names is checked once it is read.
        """
        self._check_class_split()
        if self.on_clients:
            self._check_on_clients()
        if names_a_file(self.classes) or names_a_file(self.novel_classes):
            return
        base, novel = self.class_lists
        if self.classes or self.on_clients:
            require(len(base) >= 2, "data.classes", self.classes, "two or more names, separated by commas")
        if self.novel_classes and not self.others_are_novel:
            require(bool(novel), "data.novel_classes", self.novel_classes, f"names, separated by commas, or '{OTHERS}'")
        require_different((*base, *novel), "data.classes and data.novel_classes name")

    def _check_class_split(self) -> None:
        if self.class_split != "auto" and self.has_class_lists:
            raise ConfigError(
                f"data.class_split = '{self.class_split}' contradicts data.classes and data.novel_classes, which name "
                "the classes.",
                "Remove the lists, or leave data.class_split at 'auto'.",
            )
        for key in ("novel_share", "class_seed"):
            value = getattr(self, key)
            if self.class_split != "share" and value != getattr(type(self), key):
                raise ConfigError(
                    f"data.{key} = {value} has no effect with data.class_split = '{self.class_split}'.",
                    f"Set data.class_split = 'share', or remove data.{key}.",
                )
        if self.others_are_novel and not self.classes:
            raise ConfigError(
                f"data.novel_classes = '{OTHERS}' needs data.classes, which is empty.",
                "Name the classes to train on in data.classes.",
            )

    def _check_on_clients(self) -> None:
        """Raise ConfigError for what needs the images in this process."""
        if self.class_split in ("half", "share") or self.others_are_novel:
            key = "novel_classes" if self.others_are_novel else "class_split"
            raise ConfigError(
                f"data.{key} = '{getattr(self, key).strip()}' cannot be set with data.source = '{ON_CLIENTS}': the "
                "server does not know the classes of the clients.",
                "Name the classes to train on in data.classes, and those to score alone in data.novel_classes.",
            )
        if self.root:
            raise ConfigError(
                f"data.root = {self.root!r} cannot be set with data.source = '{ON_CLIENTS}'.",
                "Leave it out, and tell each client where its images are with `feddtl client --data PATH`.",
            )
