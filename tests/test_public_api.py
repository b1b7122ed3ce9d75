"""`import feddtl`: a few names, instant, typed, and enough for a whole run."""

from __future__ import annotations

import ast
import inspect
import pydoc
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from cli.small_runs import CLIENTS, Bench
from PIL import Image

import feddtl
from feddtl.state_folder import AnyPath


def test_every_name_is_there() -> None:
    assert sorted(feddtl.__all__) == sorted(dir(feddtl))
    for name in feddtl.__all__:
        assert getattr(feddtl, name) is not None


def test_type_checkers_see_the_same_names_as_python() -> None:
    """The imports under TYPE_CHECKING, from the same modules as the lazy ones."""
    tree = ast.parse(Path(feddtl.__file__).read_text(encoding="utf-8"))
    typed = {
        alias.name: statement.module
        for block in tree.body
        if isinstance(block, ast.If)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert typed == feddtl._HOME_OF
    assert sorted([*typed, "__version__"]) == sorted(feddtl.__all__)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'feddtl' has no attribute 'no_such_name'"):
        _ = feddtl.no_such_name  # type: ignore[attr-defined]


def test_version() -> None:
    assert feddtl.__version__ == version("feddtl")


def test_importing_is_instant_and_describing_an_experiment_nearly() -> None:
    code = (
        "import sys, feddtl; feddtl.Experiment(data=feddtl.DataConfig(clients=3)); feddtl.__version__;"
        "print([name for name in ('torch', 'transformers', 'datasets', 'numpy', 'PIL') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_a_whole_run(bench: Bench, tmp_path: Path) -> None:
    """From pictures to a merged model, with these names alone."""
    settings = feddtl.DataConfig(source=str(bench.photos), clients=CLIENTS, class_split="half")
    data = feddtl.load_federated_data(settings, seed=0)
    assert data.base_names == ("ant", "bee", "cat")
    experiment = feddtl.Experiment(
        model=str(bench.clip), rounds=2, data=settings, local=feddtl.LocalConfig(learning_rate=0.01)
    )
    seen: list[int] = []

    class Watch(feddtl.RunObserver):
        def round_finished(self, record: feddtl.RoundRecord) -> None:
            seen.append(record.round)

    result = feddtl.run_experiment(experiment, tmp_path / "run", observer=Watch())
    assert seen == [1, 2]
    assert result.final["harmonic_mean"] >= 0

    model: feddtl.TrainedModel = feddtl.load_trained_model(str(tmp_path / "run"))
    picture = bench.photos / "test" / "ant" / "0.png"
    [found] = model.predict(picture, ["ant", "bee"])
    assert [found] == model.predict(str(picture), "ant, bee") == model.predict([Image.open(picture)], ["ant", "bee"])
    [ranked] = model.predict(picture, ["ant", "bee"], top_k=2)
    assert ranked[0] == found
    assert {one.class_name for one in ranked} == {"ant", "bee"}

    scores = feddtl.score_run(tmp_path / "run", class_lists=("base",))
    assert round(scores[0].accuracy, 4) == result.final["base"]
    feddtl.export_merged(tmp_path / "run", tmp_path / "model")
    assert feddtl.load_clip(str(tmp_path / "model")).logit_scale == feddtl.load_clip(str(bench.clip)).logit_scale
    assert feddtl.run_experiment(experiment, tmp_path / "run", resume=True).final == result.final


def functions() -> dict[str, Callable[..., Any]]:
    """All public functions, and public methods of public classes, by name."""
    found = {name: getattr(feddtl, name) for name in feddtl.__all__ if name != "__version__"}
    methods = {
        f"{name}.{method.__name__}": method
        for name, kind in found.items()
        if inspect.isclass(kind)
        for method_name, method in vars(kind).items()
        if not method_name.startswith("_") and inspect.isfunction(method)
    }
    return {name: value for name, value in found.items() if inspect.isfunction(value)} | methods


def test_texts_and_paths_are_alike_in_the_types() -> None:
    """Whatever takes a path also takes a text, and the other way round, by its annotations."""
    seen = 0
    for name, function in functions().items():
        for parameter, hint in get_type_hints(function).items():
            kinds = {kind for kind in (hint, *get_args(hint)) if kind is Path or get_origin(kind) is PathLike}
            if parameter != "return" and kinds:
                assert set(get_args(AnyPath)) <= set(get_args(hint)), f"{name}({parameter}: {hint})"
                seen += 1
    assert seen >= 10


def test_texts_and_paths_are_alike(bench: Bench) -> None:
    for kind in (str, Path):
        photos = kind(bench.photos)
        data = feddtl.DataConfig(source=photos, clients=CLIENTS, class_split="half")
        assert data.source == str(bench.photos)
        assert feddtl.Experiment(model=kind(bench.clip)).model == str(bench.clip)
        assert feddtl.load_clip(kind(bench.clip)).source == str(bench.clip)
        assert feddtl.load_backbone(kind(bench.clip)).source == str(bench.clip)
        assert len(feddtl.list_images(photos)) == 48


USER = """
from pathlib import Path

import feddtl

experiment = feddtl.Experiment(rounds=1, data=feddtl.DataConfig(source="photos", clients=2))
summary = feddtl.run_experiment(experiment, "runs/a")
feddtl.run_experiment(experiment, Path("runs/b"), resume=True)
model = feddtl.load_trained_model("runs/a")
best: list[feddtl.Prediction] = model.predict("a.jpg")
name: str = best[0].class_name
ranked: list[list[feddtl.Prediction]] = model.predict([Path("a.jpg"), "b.jpg"], ["cat", "dog"], top_k=2)
score: float = (model.encode_images(["a.jpg"]) @ model.encode_texts("a cat").T).item()
files: list[str] = feddtl.list_images(["photos", Path("more")])
for found in feddtl.score_run(Path("runs/a")):
    print(found.accuracy + 1, summary.final["base"], score, name, ranked, files)
feddtl.export_merged("runs/a", Path("models/a"))
"""


@pytest.mark.slow
def test_a_users_file_has_types(tmp_path: Path) -> None:
    """The package has complete annotations and the mark of PEP 561."""
    assert (Path(feddtl.__file__).parent / "py.typed").is_file()
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", tmp_path / "user.py"]
    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert process.returncode == 0, process.stdout


def test_help_says_what_a_model_does() -> None:
    for name in ("predict", "probabilities", "encode_images", "encode_texts", "encode_classes"):
        assert inspect.getdoc(getattr(feddtl.TrainedModel, name))
    text = pydoc.render_doc(feddtl.load_trained_model, renderer=pydoc.plaintext)
    assert 'feddtl.load_trained_model("runs/first")' in text


def test_one_error_to_catch(bench: Bench, tmp_path: Path) -> None:
    for call in (
        lambda: feddtl.Experiment(rounds=0),
        lambda: feddtl.load_experiment(tmp_path / "missing.toml"),
        lambda: feddtl.load_clip("./missing"),
        lambda: feddtl.load_trained_model(tmp_path),
        lambda: feddtl.load_federated_data(feddtl.DataConfig(source="./missing"), 0),
        lambda: feddtl.run_experiment(feddtl.Experiment(), bench.photos),
    ):
        with pytest.raises(feddtl.FeddtlError) as caught:
            call()
        assert caught.value.message
        assert caught.value.hint
