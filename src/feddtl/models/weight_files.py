"""Which files hold a model's weights, and why files that look like a model's are none."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

from feddtl.errors import ModelError
from feddtl.models.pickled_weights import PICKLED
from feddtl.parsing import parse_table
from feddtl.state_folder import expanded

WEIGHTS = "model.safetensors"
# Names the file of each tensor if there are several files.
INDEX = "model.safetensors.index.json"
PICKLED_INDEX = f"{PICKLED}.index.json"
DESCRIBED = (".json", ".safetensors", ".bin", ".txt")
# Formats that nothing here reads.
OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".onnx", ".gguf")
# A file of Git LFS that was not fetched is a text of three lines.
POINTER, LONGEST_POINTER = b"version https://git-lfs", 1024
AGAIN = "Copy or download the model again."
CONVERT = (
    'If you trust it, write it as safetensors once, python -c "from transformers import CLIPModel; '
    "CLIPModel.from_pretrained('{model}').save_pretrained('NEW')\", and copy its other files to NEW; or choose a model "
    "with safetensors."
)


def describe_files(folder: Path, source: str) -> dict[str, list[int]]:
    """Size and times, in ns, of the files that determine a model, by name.

    Raises:
        ModelError: The folder cannot be read, or a file is a broken link or was not fetched by Git LFS.
    """
    described: dict[str, list[int]] = {}
    try:
        for path in sorted(path for path in folder.iterdir() if path.suffix in DESCRIBED and not path.is_dir()):
            if path.is_symlink() and not path.exists():
                raise _unusable(source, f"{path} is a link to {path.readlink()}, which does not exist", AGAIN)
            status = path.stat()
            if status.st_size <= LONGEST_POINTER and path.read_bytes().startswith(POINTER):
                raise _unusable(
                    source,
                    f"{path} is a pointer of Git LFS, not the file itself",
                    f"Fetch the files: git lfs pull, in {folder}.",
                )
            # The time of the last change of an entry cannot be set, so another file of this size and date is noticed.
            described[path.name] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    except OSError as error:
        raise ModelError(
            f"Cannot read the model folder {folder}: {error.strerror}.", "Check your permissions."
        ) from None
    return described


def tensor_files(folder: Path, source: str) -> list[Path]:
    """The files with a model's weights: one, or those that an index names; safetensors if there are any.

    Raises:
        ModelError: There are none, the index is damaged, or files that it names are missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _indexed(folder / INDEX, ".safetensors", source)
    if (folder / PICKLED).is_file():
        return [folder / PICKLED]
    if (folder / PICKLED_INDEX).is_file():
        return _indexed(folder / PICKLED_INDEX, ".bin", source)
    others = [path.name for path in sorted(folder.iterdir()) if path.suffix in OTHER_FORMATS]
    if others:
        raise _unusable(
            source,
            f"{folder} has neither {WEIGHTS} nor {PICKLED}, only {', '.join(others)}, which is not read",
            CONVERT.format(model=folder),
        )
    named = [path.name for path in sorted(folder.glob("*.safetensors"))]
    if not expanded(source).is_dir():
        raise _unusable(source, f"it has neither {WEIGHTS} nor {PICKLED} on the Hub", CONVERT.format(model=source))
    raise _unusable(
        source,
        f"{folder} has neither {WEIGHTS} nor {PICKLED}" + (f", only {', '.join(named)}" if named else ""),
        f"Rename the file with all weights to {WEIGHTS}." if named else AGAIN,
    )


def _indexed(index: Path, ending: str, source: str) -> list[Path]:
    """The files that an index names, all with this ending."""
    folder = index.parent
    try:
        names: Any = parse_table(index.read_bytes())["weight_map"].values()
        files = sorted({str(name) for name in names})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unusable(source, f"{index} is damaged ({error})", AGAIN) from None
    # A model reads its own folder alone.
    outside = [name for name in files if PurePath(name).name != name or not name.endswith(ending)]
    if outside or not files:
        raise _unusable(source, f"{index} names {outside[:1] or 'no files'}, not {ending} files beside it", AGAIN)
    if missing := [name for name in files if not (folder / name).is_file()]:
        listed = ", ".join(missing[:3]) + (" …" if missing[3:] else "")
        raise _unusable(source, f"{len(missing)} of the {len(files)} files in {index} are missing: {listed}", AGAIN)
    return [folder / name for name in files]


def _unusable(source: str, problem: str, hint: str) -> ModelError:
    return ModelError(f"Cannot load the model {source}: {problem}.", hint)
