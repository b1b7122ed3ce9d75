"""The commands with their flags; each one's work is in a module of its own, imported when it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from feddtl.cli.flags import UNSAID, ClassList, ExperimentFile, ExperimentFiles, Flags, FolderFlag, TrackFlag
from feddtl.config import Experiment


@dataclass(frozen=True)
class Run:
    """Run an experiment: federated fine-tuning, scored every round.

    Flags override the experiment file. A run is a folder; see docs/reference/run-folder.md.
    """

    experiment: ExperimentFile = None
    output: FolderFlag = None
    """New folder for the run; default: runs/<experiment>-seed<seed>."""
    resume: FolderFlag = None
    """Go on with the run in this folder from its last checkpoint; its settings hold."""
    json: bool = False
    """Print the summary as JSON on standard output, and nothing else there."""
    quiet: bool = False
    """No progress, only the final table."""
    track: TrackFlag = ()
    config: Flags = field(default_factory=Experiment)

    def execute(self) -> int:
        """Exit code."""
        from feddtl.cli.running import run

        return run(self)


@dataclass(frozen=True)
class Compare:
    """Run experiments over seeds and write tables of them: methods x settings x seeds.

    Flags override every experiment file. What is finished is kept, what was interrupted goes on; see
    docs/how-to/compare.md.
    """

    experiments: ExperimentFiles = ()
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="SEED [SEED ...]")] = (0,)
    """Seeds; each experiment runs with each of them."""
    output: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/comparison")
    """Folder of the comparison, new or one to go on with: tables, and a run folder for each experiment and seed."""
    json: bool = False
    """Print comparison.json on standard output, and nothing else there."""
    quiet: bool = False
    """No progress, only the final tables."""
    track: TrackFlag = ()
    config: Flags = field(default_factory=Experiment)
    resolved: tyro.conf.Suppress[dict[str, Experiment]] = field(default_factory=dict)
    """The experiments of the files by name, in their order, with the flags over them."""

    def execute(self) -> int:
        """Exit code."""
        from feddtl.cli.comparing import compare_experiments

        return compare_experiments(self)


@dataclass(frozen=True)
class Evaluate:
    """Score the model of a finished or interrupted run on any data set."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder of the run."""
    source: Annotated[str, tyro.conf.arg(name="data.source", help_behavior_hint=UNSAID)] = ""
    """Catalogue name, Hub id, local folder, or 'shapes'; default: the run's own data."""
    root: Annotated[str, tyro.conf.arg(name="data.root", help_behavior_hint=UNSAID)] = ""
    """Folder with a sub-folder per data set; default: the Hub for a new source, the run's own otherwise."""
    domains: Annotated[str, tyro.conf.arg(name="data.domains", help_behavior_hint=UNSAID)] = ""
    """Comma-separated domains; default: all of a new source, the run's own otherwise."""
    prompt: Annotated[str, tyro.conf.arg(name="data.prompt", help_behavior_hint=UNSAID)] = ""
    """Prompt with {class}; default: the source's own."""
    image_column: Annotated[str, tyro.conf.arg(name="data.image-column", help_behavior_hint=UNSAID)] = ""
    """Image column of a Hub or parquet source; default: found by its type."""
    label_column: Annotated[str, tyro.conf.arg(name="data.label-column", help_behavior_hint=UNSAID)] = ""
    """Label column; default: found by its type and name."""
    domain_column: Annotated[str, tyro.conf.arg(name="data.domain-column", help_behavior_hint=UNSAID)] = ""
    """Domain column; default: 'domain' where there is one."""
    classes: tuple[ClassList, ...] = ("base", "novel", "all")
    """Class lists to choose from: the first half, the second half, or all classes at once."""
    device: Annotated[str, tyro.conf.arg(name="compute.device")] = "auto"
    """'auto', 'cpu', 'cuda', 'mps'."""
    json: bool = False
    """Print the scores as JSON."""

    def execute(self) -> int:
        """Exit code."""
        from feddtl.cli.evaluating import evaluate

        return evaluate(self)


@dataclass(frozen=True)
class Export:
    """Write the adapted CLIP as a plain Hugging Face model, adapters merged into the weights."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder of the run."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """New folder of the merged model, for CLIPModel.from_pretrained."""

    def execute(self) -> int:
        """Exit code."""
        from feddtl.cli.exporting import export

        return export(self)


@dataclass(frozen=True)
class Report:
    """Make one self-contained HTML page from a run folder, or from a folder of several runs."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder of a run, or one with run folders up to three folders below it."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint=UNSAID)] = None
    """File of the page; default: DIR/report.html."""
    no_images: bool = False
    """Leave out the test images, which the page otherwise shows some of."""
    json: bool = False
    """Print where the page is, its size, and what could not be read, as JSON."""

    def execute(self) -> int:
        """Exit code."""
        from feddtl.cli.reporting import report

        return report(self)


@dataclass(frozen=True)
class Partition:
    """Show who gets which training images: a table, and a class x client heat map."""

    experiment: ExperimentFile = None
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint=UNSAID)] = None
    """Write the heat map to this file (.svg, .png, .pdf)."""
    json: bool = False
    """Print the counts as JSON."""
    config: Flags = field(default_factory=Experiment)

    def execute(self) -> int:
        """Exit code."""
        from feddtl.cli.partitioning import show_partition

        return show_partition(self)


@dataclass(frozen=True)
class Cache:
    """Show what is kept of images that went through the frozen blocks, or remove it."""

    clear: bool = False
    """Remove all of it, and the measurements that chose precision and kernels; runs that are going on are not
    disturbed."""
    folder: Annotated[str, tyro.conf.arg(name="compute.cache-folder", metavar="DIR", help_behavior_hint=UNSAID)] = ""
    """The cache; default: FEDDTL_CACHE or ~/.cache/feddtl."""
    json: bool = False
    """Print the contents as JSON."""

    def execute(self) -> int:
        """Exit code."""
        from feddtl.cli.caching import cache

        return cache(self)


@dataclass(frozen=True)
class Doctor:
    """Check the installation: versions, device, model cache, disk."""

    json: bool = False
    """Print the findings as JSON."""

    def execute(self) -> int:
        """Exit code."""
        from feddtl.cli.doctoring import doctor

        return doctor(self)
