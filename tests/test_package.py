"""The source distribution and the wheel: what they contain, and a run far from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info")
EXPERIMENTS = {path.relative_to(ROOT).as_posix() for path in (ROOT / "experiments").rglob("*.toml")}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of both, built from a copy of the sources; the wheel is made from the source distribution."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("src", "experiments"):
        shutil.copytree(ROOT / name, folder / "sources" / name, symlinks=True, ignore=IGNORED)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "sources")
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "sources"]
    subprocess.run(words, check=True, capture_output=True, text=True)
    return folder / "dist"


@pytest.mark.slow
def test_every_experiment_is_in_both_once(distributions: Path) -> None:
    wheel, source = next(distributions.glob("*.whl")), next(distributions.glob("*.tar.gz"))
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    with tarfile.open(source) as archive:
        assert all(member.isreg() or member.isdir() for member in archive)
        sources = [name.partition("/")[2] for name in archive.getnames()]
    for contained, start in ((names, "feddtl/assets/"), (sources, "src/feddtl/assets/")):
        found = [name for name in contained if "experiments/" in name and name.endswith(".toml")]
        assert sorted(found) == sorted(start + name for name in EXPERIMENTS)
        assert {start + "classify.py", start + "tiny-clip/model.safetensors"} <= set(contained)


@pytest.mark.slow
def test_the_wheel_runs_experiments_by_name_outside_of_the_checkout(distributions: Path, tmp_path: Path) -> None:
    """In an environment of its own, which takes only the other packages from this one."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    purelib = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    (purelib / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--no-deps"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    wheel = next(distributions.glob("*.whl"))
    subprocess.run([*pip, "--no-index", wheel], env=environment, check=True, capture_output=True)
    away = tmp_path / "away"
    away.mkdir()

    def feddtl(*words: str) -> subprocess.CompletedProcess[str]:
        command = [tmp_path / "venv" / "bin" / "feddtl", *words]
        return subprocess.run(command, cwd=away, env=environment, capture_output=True, text=True)

    found = subprocess.run(
        [python, "-c", "import feddtl; print(feddtl.__file__)"],
        cwd=away,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert Path(found.stdout.strip()).is_relative_to(tmp_path)
    short = ("--rounds", "1", "--data.regime", "few-shot", "--data.shots", "2", "--quiet")
    run = feddtl("run", "quickstart", *short)
    assert (run.returncode, "FedDTL" in run.stdout) == (0, True), run.stderr
    assert (away / "runs" / "quickstart-seed0" / "summary.json").is_file()
    exported = feddtl("export", "runs/quickstart-seed0", "model", "--format", "onnx")
    assert exported.returncode == 0, exported.stderr
    assert "license: apache-2.0" in (away / "model" / "README.md").read_text()
    compared = feddtl("compare", "quickstart", *short)
    assert compared.returncode == 0, compared.stderr
    assert "FedLoRA" in compared.stdout
