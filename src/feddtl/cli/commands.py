"""The commands with their flags; each one's work is in a module of its own, imported when it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from feddtl.config import Experiment

# Of a flag whose text says what holds without it; tyro would add "(default: None)".
UNSAID = ""
ExperimentFile = Annotated[
    Path | None,
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="EXPERIMENT.toml",
        help="Experiment file, or FILE.toml::LABEL where it has several; see experiments/; without one, defaults.",
        help_behavior_hint=UNSAID,
    ),
]
ExperimentFiles = Annotated[
    tuple[Path, ...],
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="EXPERIMENT.toml [EXPERIMENT.toml ...]",
        help="Experiment files with different names, or FILE.toml::PATTERN for some experiments of one.",
        help_behavior_hint=UNSAID,
    ),
]
FolderFlag = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint=UNSAID)]
# No prefix of its own: the flags are the keys of the file, `--rounds`, `--data.source`.
Flags = Annotated[Experiment, tyro.conf.arg(name="")]
ClassList = Literal["base", "novel", "all"]


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
    config: Flags = field(default_factory=Experiment)

    def execute(self) -> int:
        """Exit code."""
        from feddtl.cli.running import run

        return run(self)


@dataclass(frozen=True)
class ComparedExperiment(Experiment):
    """An experiment without a flag for its seed, which a comparison has several of."""

    seed: tyro.conf.Suppress[int] = 0


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
    config: Annotated[ComparedExperiment, tyro.conf.arg(name="")] = field(default_factory=ComparedExperiment)
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
class Keys:
    """Write keys for a server and its clients: an authority, the server's certificate, a key for each client.

    One folder for each party; see docs/how-to/run-over-flower.md.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """New folder, readable for you alone; nothing in it is ever replaced."""
    hosts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="HOST [HOST ...]")] = ("localhost",)
    """Names and IP addresses by which clients reach the server; those of its own loopback interface always hold."""
    clients: Annotated[int, tyro.conf.arg(metavar="K")] = 1
    """How many clients there are."""
    days: int = 730
    """How long the certificates are valid."""

    def execute(self) -> int:
        """Exit code."""
        from feddtl.cli.deploying import keys

        return keys(self)


@dataclass(frozen=True)
class Server:
    """Run a server that clients connect to, until Ctrl-C or SIGTERM: Flower's SuperLink, with TLS and client keys.

    Runs are given to it with `feddtl submit` on the same machine.
    """

    keys: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder that `feddtl keys` wrote, or the server/ in it."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all of this machine. Whoever reaches it can also submit runs: see the docs."""
    port: int = 9092
    """Port to listen on."""
    state: FolderFlag = None
    """Folder for its connection, which `feddtl submit` reads; default: FEDDTL_STATE or ~/.local/state/feddtl."""

    def execute(self) -> int:
        """Exit code."""
        from feddtl.cli.deploying import server

        return server(self)


@dataclass(frozen=True)
class Client:
    """Take part in the runs of a server, until Ctrl-C or SIGTERM: Flower's SuperNode, with TLS and its own key.

    Images stay on this machine. A server that is away is waited for.
    """

    id: Annotated[int, tyro.conf.arg(metavar="N")]
    """Which client this is, from 0."""
    server: Annotated[str, tyro.conf.arg(metavar="HOST:PORT")]
    """Where the server listens."""
    keys: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The client's folder of keys, client-N."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint=UNSAID)] = None
    """This client's images, or its copy of the data set; default: the place that the experiment names."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint=UNSAID)] = None
    """This client's copy of the CLIP; default: the place that the experiment names."""
    state: FolderFlag = None
    """Folder for its personal part of methods that have one; default: FEDDTL_STATE or ~/.local/state/feddtl."""

    def execute(self) -> int:
        """Exit code."""
        from feddtl.cli.deploying import client

        return client(self)


@dataclass(frozen=True)
class Submit:
    """Run an experiment at the `feddtl server` of this machine, with its clients, and follow it to its end.

    Flags override the experiment file. Ctrl-C stops the run; `--resume` goes on.
    """

    experiment: ExperimentFile = None
    output: FolderFlag = None
    """New folder for the run, on the server's machine, which is this one."""
    resume: FolderFlag = None
    """Go on with the run in this folder from its last checkpoint; its settings hold."""
    state: FolderFlag = None
    """The server's --state; default: FEDDTL_STATE or ~/.local/state/feddtl."""
    json: bool = False
    """Print the summary as JSON on standard output, and nothing else there."""
    quiet: bool = False
    """No progress, only the final table."""
    config: Flags = field(default_factory=Experiment)

    def execute(self) -> int:
        """Exit code."""
        from feddtl.cli.deploying import submit

        return submit(self)


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
