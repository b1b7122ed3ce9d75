"""What the documentation says is true: commands parse, examples run, links lead somewhere, settings exist."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import feddtl
from feddtl.cli import main
from feddtl.cli.commands import COMMANDS
from feddtl.config import Experiment
from feddtl.data.catalog import CATALOG
from feddtl.data.templates import usual_templates
from feddtl.dotted import flatten
from feddtl.experiment_file import experiment_from_dict, experiment_to_dict
from feddtl.experiment_grid import expand
from feddtl.methods.base import Method, TrainedParameters
from feddtl.runtimes.runtime import Progress, Runtime

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of one language."""
    return [text for found, text in BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def shell_lines(page: Path) -> Iterator[str]:
    """Lines of the shell blocks, loops unrolled, without the settings of the environment in front."""
    for block in blocks(page, "sh"):
        loops: list[list[tuple[str, str]]] = []
        for line in block.replace("\\\n", " ").splitlines():
            if loop := re.fullmatch(r"\s*for (\w+) in (.*); do", line):
                loops.append([(loop[1], value) for value in loop[2].split()])
            elif line.strip() == "done":
                loops.pop()
            else:
                for values in itertools.product(*loops):
                    filled = line.strip()
                    for variable, value in values:
                        filled = filled.replace(f"${variable}", value)
                    yield re.sub(r"^(\w+=\S+ )+", "", filled)


def feddtl_commands(page: Path) -> list[list[str]]:
    """Words behind `feddtl` of every command; a bare `feddtl run` in the prose becomes its help."""
    inline = [found for found in re.findall(r"`(feddtl [^`]+)`", prose(page)) if "COMMAND" not in found]
    words = [as_the_shell_reads(line) for line in [*shell_lines(page), *inline]]
    found = [command[1:] for command in words if command[:1] == ["feddtl"]]
    return [[*command, "--help"] if len(command) == 1 and command[0] != "doctor" else command for command in found]


def as_the_shell_reads(line: str) -> list[str]:
    """Words of a line, those with a `*` replaced by the files they match, if any do."""
    words = shlex.split(line, comments=True)
    return [
        found
        for word in words
        for found in (sorted(str(path) for path in ROOT.glob(word)) if "*" in word and "/" in word else []) or [word]
    ]


@each_page
def test_every_command_of_the_documentation_is_understood(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    for command in COMMANDS.values():
        monkeypatch.setattr(command, "execute", lambda self: 0)
    # The runs and files of the examples are not there; their flags are what is checked.
    monkeypatch.setattr("feddtl.cli.experiment_argument._experiment_of_run", lambda folder: Experiment())
    for words in feddtl_commands(page):
        try:
            code = main(words)
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        assert code == 0, f"feddtl {shlex.join(words)}: {capsys.readouterr()}"


@each_page
def test_make_targets_and_scripts_of_the_documentation_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    for script in re.findall(r"(?:scripts|experiments|tests|src)/[\w./-]*\w\.\w+", text):
        assert (ROOT / script).is_file(), script


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def anchors(page: Path) -> set[str]:
    """Anchors that a forge gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_every_setting_named_in_the_documentation_exists(page: Path) -> None:
    settings = flatten(experiment_to_dict(Experiment()))
    tables = {key.partition(".")[0] for key in settings if "." in key}
    for named in re.findall(r"`(\w+\.\w+)", prose(page)):
        table, _, last = named.partition(".")
        if table in tables and last not in ("json", "toml"):
            assert named in settings
    for example in blocks(page, "toml"):
        for values in expand(tomllib.loads(example)).values():
            experiment_from_dict(values)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the Python examples run: photos, a picture, a finished run and its merged model."""
    folder = tmp_path_factory.mktemp("examples")
    random = np.random.default_rng(0)
    for name in ("ant", "bee", "cat", "dog"):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(4):
            pixels = random.integers(0, 256, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number}.png")
    Image.fromarray(pixels).save(folder / "picture.jpg")
    data = feddtl.DataConfig(source=str(folder / "photos"), class_split="half", clients=2)
    experiment = Experiment(model="tiny-clip", rounds=2, data=data)
    feddtl.run_experiment(experiment, folder / "runs" / "first")
    feddtl.export_merged(folder / "runs" / "first", folder / "models" / "adapted")
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
@pytest.mark.filterwarnings("ignore")
def test_every_python_example_runs(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    module = ModuleType("example")  # a page is read from top to bottom
    monkeypatch.setitem(sys.modules, "example", module)  # dataclasses look their module up
    for number, example in enumerate(blocks(page, "python"), start=1):
        code = compile(example, f"{name_of(page)}, Python example {number}", "exec")
        exec(code, vars(module))


def test_the_example_method_learns_and_keeps_what_is_personal(
    federation: Any, make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The class of the page, and the experiment file under it once its method has a name."""
    page = ROOT / "docs/how-to/add-a-method.md"
    module = ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)
    exec(blocks(page, "python")[0], vars(module))
    settings = tomllib.loads(blocks(page, "text")[-1])
    assert settings.pop("method") == "fedshift.py:FedShift"
    assert settings.pop("fedshift") == {"start": 0.1}
    method, own = module.FedShift, module.FedShiftSettings(start=0.1)
    experiment = make_experiment(local={"learning_rate": 0.1})
    assert issubclass(method, Method)
    assert not inspect.isabstract(method)
    method = method(federation.task, own, experiment.training)
    assert method.trained_parameters() == TrainedParameters(shared=24, personal=24)
    runtime = Runtime(method, federation.clients(method), federation.sets(method), experiment)
    progress = runtime.run(Progress(method.init_server()))
    losses = [record.train["loss"] for record in progress.records]
    assert losses[-1] < losses[0]
    assert sorted(progress.personal) == [0, 1, 2]


def test_every_field_of_a_run_is_documented(place: Path) -> None:
    page = (ROOT / "docs/reference/run-folder.md").read_text(encoding="utf-8")
    run = place / "runs" / "first"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    described = [json.loads((run / name).read_text(encoding="utf-8")) for name in ("summary.json", "data.json")]
    fields = set(itertools.chain(*described, *records, *(record["train"] for record in records)))
    fields |= set(itertools.chain(*(record["server"] for record in records)))
    assert {record["stage"] for record in records} == {"sft", "rl"}
    assert {field for field in fields if f"`{field}`" not in page} == set()
    for path in run.iterdir():
        assert path.name in page


def test_the_partition_in_the_tutorial_is_what_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "110")
    tutorial = ROOT / "docs/tutorial.md"
    words = next(words for words in feddtl_commands(tutorial) if words[0] == "partition")
    assert main(words) == 0
    first, classes = capsys.readouterr().out.split(" " * 8 + "Images by class", 1)
    assert first.rstrip(" ") == blocks(tutorial, "text")[0]
    assert classes.count("trained") == classes.count("novel") == 32


def test_every_flag_of_the_command_line_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/reference/command-line.md").read_text(encoding="utf-8")
    settings = {key.replace("_", "-") for key in flatten(experiment_to_dict(Experiment()))}
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        flags = set(re.findall(r"(?<![\w-])--([a-z][a-z0-9.-]*)", capsys.readouterr().out)) - {"help", "help-all"}
        if command in ("run", "compare", "partition", "submit"):
            flags -= settings
        section = re.split(r"^## ", page, flags=re.MULTILINE)
        text = next(part for part in section if part.startswith(f"{command}\n"))
        assert {flag for flag in flags if f"--{flag}" not in text} == set()


def script(name: str) -> ModuleType:
    """A module of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_page_is_up_to_date() -> None:
    writer = script("write_config_reference")
    written = writer.PAGE.read_text(encoding="utf-8")
    assert written == writer.render(), "run: python scripts/write_config_reference.py"
    for key in flatten(experiment_to_dict(Experiment())):
        assert f"| `{key}` |" in written


@each_page
def test_tables_of_results_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == script("write_results_tables").with_tables(text), "run: python scripts/write_results_tables.py"


def test_the_fidelity_page_has_every_hyper_parameter_with_its_default() -> None:
    text = (ROOT / "docs/paper-fidelity.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    stated = {row[3].strip("`"): row[2] for row in rows if len(row) == 5 and row[3].startswith("`")}
    settings = flatten(experiment_to_dict(Experiment()))
    value_text = script("write_config_reference").value_text
    for key, default in stated.items():
        if key != "data.source":
            assert default == f"`{value_text(settings[key])}`", key
    tables = (
        "lora",
        "schedule",
        "local",
        "rl",
        "server",
        "promptfl",
        "fedmaple",
        "fedpgp",
        "fedmgp",
        "pfedmma",
        "fedclip",
    )
    ours = {key for key in settings if key.partition(".")[0] in tables}
    assert ours <= stated.keys()


def test_the_catalogue_page_agrees_with_the_catalogue() -> None:
    text = (ROOT / "docs/reference/data-sets.md").read_text(encoding="utf-8")
    usual = CATALOG["cifar10"].prompt_template
    for entry in CATALOG.values():
        hub = f"`{entry.hub_id}`" if entry.hub_id else "–"
        prompt = "" if entry.prompt_template == usual else f"`{entry.prompt_template}`"
        assert f"| `{entry.name}` | {hub} | {prompt} | {entry.licence} | {entry.source_note} |" in text
    listed = re.findall(r"^\| `([\w-]+)` \| (?:`[\w.-]+/|–)", text, re.MULTILINE)
    assert listed == list(CATALOG)
    rows = [line.split(" | ") for line in text.partition("## Prompt ensembles")[2].splitlines() if "{class}" in line]
    written = {name: re.findall("`([^`]+)`", row[1]) for row in rows for name in re.findall("`([^`]+)`", row[0])}
    assert written == {name: list(usual_templates(name)) for name in ("shapes", *CATALOG)}
    assert "any other source" in rows[-1][0]
    assert re.findall("`([^`]+)`", rows[-1][1]) == list(usual_templates("photos"))
