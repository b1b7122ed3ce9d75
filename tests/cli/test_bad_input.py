"""Bad input: an exit code, one clear error with the next step, no traceback, and no folder left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from cli.small_runs import Bench, Command, refused, write_photos
from transformers import BertConfig

# --- experiment files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "needles"),
    [
        ("rond = 3", ("Unknown key 'rond'", "Did you mean 'rounds'?")),
        ("[data]\nshotz = 3", ("Unknown key 'data.shotz'", "Did you mean 'shots'?")),
        ("shots = 3", ("Unknown key 'shots'", "Did you mean 'data.shots'?")),
        ("[local]\nkl_weight = 3", ("Unknown key 'local.kl_weight'", "Did you mean 'rl.kl_weight'?")),
        ("[data]\nclients = 3\nrounds = 3", ("Unknown key 'data.rounds'", "above the first [table]")),
        ("[dataa]\nshots = 3", ("Unknown key 'dataa'", "Did you mean 'data'?")),
        ("zzzzzz = 3", ("Unknown key 'zzzzzz'", "Allowed: afedpg, attack, compute, data")),
        ("data = 'shapes'", ("data must be a table", "[data]")),
        ("rounds = '3'", ("rounds = '3'", "a whole number")),
        ("rounds = 3.5", ("rounds = 3.5", "a whole number")),
        ("seed = true", ("seed = True", "a whole number")),
        ("[data]\nalpha = 'small'", ("data.alpha = 'small'", "a number")),
        ("[data]\nsource = 7", ("data.source = 7", "a text")),
        ("rounds = 0", ("rounds = 0 is out of range", "1 or more")),
        ("seed = -1", ("seed = -1", "0 to 2147483647")),
        ("participation = 1.5", ("participation = 1.5", "above 0, up to 1")),
        ("[data]\nalpha = nan", ("data.alpha = nan", "a finite number")),
        ("[local]\nlearning_rate = inf", ("local.learning_rate = inf", "a finite number")),
        ("[rl]\nclip = 1.0", ("rl.clip = 1.0", "between 0 and 1")),
        ("[lora]\ntargets = 'q_proj,qkv'", ("lora.targets = 'q_proj,qkv'", "k_proj")),
        ("[data]\nprompt = 'a photo'", ("data.prompt = 'a photo'", "{class}")),
        ("[data]\nprompt = ['a {class}', 'a photo', 'one {class}']", ("data.prompt = 'a photo'", "{class}", "@FILE")),
        ("[data]\nprompt = ['a {class}.', 'one {class}', 'A  {class}.']", ("data.prompt = 'A  {class}.'", "different")),
        ("[data]\nprompt = ['a {class}', 3]", ("data.prompt = ['a {class}', 3] is a list", "a text")),
        ("[data]\nprompt = []", ("data.prompt = [] is a list", "a text")),
        ("[data]\nprompt = '@none.txt'", ("data.prompt = '@none.txt'", "no file none.txt", "one template a line")),
        ("method = 'feddlt'", ("method = 'feddlt'", "Did you mean 'feddtl'?")),
        ("[data]\npartition = 'random'", ("data.partition = 'random'", "Allowed: dirichlet, domain")),
        ("rounds = 4\n[schedule]\nsft_rounds = 4", ("leaves no RL round", "schedule.stages = 'sft'")),
        ("rounds = = 3", ("mine.toml is not valid TOML", "line 1")),
    ],
)
def test_experiment_file(feddtl: Command, text: str, needles: tuple[str, ...]) -> None:
    Path("mine.toml").write_text(text)
    refused(feddtl("run", "mine.toml"), "mine.toml", *needles)
    assert not Path("runs").exists()


def test_experiment_file_that_cannot_be_read(feddtl: Command, tmp_path: Path) -> None:
    Path("binary.toml").write_bytes(bytes(range(128, 256)))
    Path("folder.toml").mkdir()
    refused(feddtl("run", "missing.toml"), "Cannot read the experiment file missing.toml", "No such file")
    refused(feddtl("run", "binary.toml"), "binary.toml is not valid TOML")
    refused(feddtl("run", "folder.toml"), "folder.toml", "directory")
    refused(feddtl("run", "photos"), "'photos' is not an experiment file", ".toml")
    refused(feddtl("partition", "missing.toml"), "missing.toml")


# --- flags -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "needles"),
    [
        (("--rounds", 0), ("rounds = 0", "1 or more")),
        (("--data.alpha", -1), ("data.alpha = -1.0", "above 0")),
        (("--data.alpha", "nan"), ("data.alpha = nan", "finite")),
        (("--data.clients", 0), ("data.clients = 0", "1 or more")),
        (("--rl.group-size", 1), ("rl.group_size = 1", "2 or more")),
        (("--data.prompt", "a photo"), ("data.prompt = 'a photo'", "{class}")),
        (("--model", ""), ("model = ''", "folder")),
    ],
)
def test_flag_out_of_range(feddtl: Command, flags: tuple[object, ...], needles: tuple[str, ...]) -> None:
    refused(feddtl("run", *flags), *needles)
    assert not Path("runs").exists()


def test_misspelt_method(feddtl: Command) -> None:
    answer = feddtl("run", "--method", "feddlt", "--output", "run")
    refused(answer, "method = 'feddlt'", "Did you mean 'feddtl'?", "FILE.py:Class")


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (("run", "--rond", "3"), "--rounds"),
        (("run", "--rounds", "three"), "--rounds"),
        (("run", "--output"), "--output"),
        (("evaluate",), "DIR"),
        (("evaluate", "run", "--classes", "some"), "base"),
        (("rum",), "run"),
        ((), "run"),
    ],
)
def test_misspelt_flag_or_command(feddtl: Command, words: tuple[str, ...], needle: str) -> None:
    """What no flag can mean is told by the parser, with the exit code shells know for it."""
    answer = feddtl(*words)
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert needle in answer.err
    assert "Traceback" not in answer.err


# --- data --------------------------------------------------------------------------------------------


def test_missing_data_folder(bench: Bench, feddtl: Command) -> None:
    refused(feddtl("run", *bench.flags("--data.source", "./nowhere", "--output", "run")), "./nowhere")
    refused(feddtl("run", *bench.flags("--data.source", "shaps", "--output", "run")), "Did you mean 'shapes'?")
    assert not Path("run").exists()


def test_class_folder_without_an_image(bench: Bench, feddtl: Command) -> None:
    photos = write_photos(Path("photos"))
    for file in (photos / "train" / "bee").iterdir():
        file.unlink()
    answer = feddtl("run", *bench.flags("--data.source", "./photos", "--output", "run"))
    refused(answer, "The class folder 'bee'", "contains no images", "or remove the folder")
    assert not Path("run").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_truncated_image(bench: Bench, feddtl: Command, split: str) -> None:
    image = write_photos(Path("photos")) / split / "ant" / "1.png"
    image.write_bytes(image.read_bytes()[:200])
    answer = feddtl("run", *bench.flags("--data.source", "./photos", "--output", "run", "--quiet"))
    refused(answer, "Cannot read the image ", f"photos/{split}/ant/1.png: ", "Replace the file")
    assert not Path("run").exists()


def test_a_text_that_is_called_an_image(bench: Bench, feddtl: Command) -> None:
    (write_photos(Path("photos")) / "train" / "ant" / "1.png").write_text("not an image")
    answer = feddtl("run", *bench.flags("--data.source", "./photos", "--output", "run", "--quiet"))
    refused(answer, "Cannot read the image ", "photos/train/ant/1.png: ")


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_fewer_base_images_than_clients(bench: Bench, feddtl: Command, partition: str) -> None:
    flags = bench.flags("--data.shots", 1, "--data.clients", 4, "--data.partition", partition, "--output", "run")
    refused(feddtl("run", *flags, "--quiet"), "3 training images", "4 clients", "at most 3 clients")
    assert not Path("run").exists()


def test_fewer_classes_than_clients_are_shared_and_said(bench: Bench, feddtl: Command) -> None:
    answer = feddtl("run", *bench.flags("--data.clients", 4, "--output", "run"))
    assert answer.code == 0
    assert "note: 4 clients and 3 base classes: some classes are split among several clients.\n" in answer.err


def test_fewer_images_than_shots_are_used_and_said(bench: Bench, feddtl: Command) -> None:
    """Not an error: all images of a small class are used, and a line says so."""
    answer = feddtl("run", *bench.flags("--output", "run"))
    assert answer.code == 0
    assert "note: Fewer than 16 training images, so all of them are used: ant (5), bee (5), cat (5).\n" in answer.err
    assert json.loads(Path("run/data.json").read_text())["train_images"] == 15


# --- model and device --------------------------------------------------------------------------------


def test_missing_model_folder(bench: Bench, feddtl: Command) -> None:
    answer = feddtl("run", *bench.flags("--model", "./nowhere", "--output", "run", "--quiet"))
    refused(answer, "There is no model folder ./nowhere", "tiny-clip")
    assert not Path("run").exists()


def test_model_that_is_no_clip(bench: Bench, feddtl: Command) -> None:
    BertConfig(num_hidden_layers=1).save_pretrained("bert")
    answer = feddtl("run", *bench.flags("--model", "./bert", "--output", "run", "--quiet"))
    refused(answer, f"{Path.cwd()}/bert is a 'bert' model", "one of these types: clip")


def test_model_without_weights(bench: Bench, feddtl: Command) -> None:
    shutil.copytree(bench.clip, "model")
    Path("model/model.safetensors").unlink()
    refused(feddtl("run", *bench.flags("--model", "./model", "--output", "run", "--quiet")), "Cannot load the model")


def test_block_that_the_model_does_not_have(bench: Bench, feddtl: Command) -> None:
    answer = feddtl("run", *bench.flags("--lora.first-image-block", 5, "--output", "run", "--quiet"))
    refused(answer, "lora.first_image_block = 5", "2 blocks")


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:77", "mps"])
def test_device_that_is_not_there(bench: Bench, feddtl: Command, device: str) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    answer = feddtl("run", *bench.flags("--compute.device", device, "--output", "run"))
    refused(answer, f"compute.device = '{device}'", "'auto'")
    assert not Path("run").exists()
