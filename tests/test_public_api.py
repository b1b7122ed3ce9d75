"""`import feddtl`: a few names, instant, typed, and enough for a whole run."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from cli.small_runs import CLIENTS, Bench, make_bench
from PIL import Image

import feddtl


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("bench"))


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

    model: feddtl.TrainedModel = feddtl.load_trained_model(tmp_path / "run")
    picture = Image.open(bench.photos / "test" / "ant" / "0.png")
    [found] = model.predict([picture], ["ant", "bee"])
    assert found.class_name in ("ant", "bee")

    scores = feddtl.score_run(tmp_path / "run", class_lists=("base",))
    assert round(scores[0].accuracy, 4) == result.final["base"]
    feddtl.export_merged(tmp_path / "run", tmp_path / "model")
    assert feddtl.load_clip(str(tmp_path / "model")).logit_scale == feddtl.load_clip(str(bench.clip)).logit_scale
    assert feddtl.run_experiment(experiment, tmp_path / "run", resume=True).final == result.final


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
