"""`feddtl run`: what it computes, writes and prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.small_runs import CLASSES, ROUNDS, Bench, Command, outcome, records, summary, write_photos
from safetensors.torch import load_file

from feddtl.run_files import read_experiment

HEADLINE = {"local", "base", "novel", "harmonic_mean"}


def test_summary_holds_what_is_promised(finished: Path) -> None:
    result = summary(finished)
    assert result["method"] == "feddtl"
    assert result["dataset"] == "photos"
    assert (result["seed"], result["rounds"]) == (0, ROUNDS)
    assert set(result["zero_shot"]) == set(result["final"]) == HEADLINE
    assert all(0 <= result[row][key] <= 100 for row in ("zero_shot", "final") for key in HEADLINE)
    assert 1 <= result["best_round"] <= ROUNDS
    assert result["seconds"] > 0
    assert {"bytes_up", "bytes_down"} <= set(result)


def test_final_is_the_last_round_and_best_is_named_as_such(finished: Path) -> None:
    rounds, result = records(finished), summary(finished)
    assert [record["round"] for record in rounds] == list(range(1, ROUNDS + 1))
    assert [record["stage"] for record in rounds] == ["sft", "sft", "rl", "rl"]
    assert {key: pytest.approx(rounds[-1][key], abs=1e-4) for key in HEADLINE} == result["final"]
    best = max(rounds, key=lambda record: record["harmonic_mean"])
    assert result["best_round"] == best["round"]
    assert result["best"]["harmonic_mean"] == pytest.approx(best["harmonic_mean"], abs=1e-4)


def test_every_round_logs_what_the_method_did(finished: Path) -> None:
    for record in records(finished):
        train = record["train"]
        assert {"loss", "gradient_norm", "update_norm"} <= set(train)
        assert set(record["train_by_client"]) == {"0", "1", "2"}
        assert record["clients"] == [0, 1, 2]
        assert record["bytes_up"] > 0
        assert record["server"]
        if record["stage"] == "rl":
            assert {"reward", "kl", "all_equal_groups", "mean_ratio", "clip_fraction"} <= set(train)


def test_bytes_equal_a_count_by_hand(finished: Path) -> None:
    """LoRA of a tower: 2 blocks x 3 layers x (4x16 + 16x4) numbers = 768, in 4 bytes 3072.

    Up, each round: 3 clients x 3072, and 15 images x (8 numbers in 4 bytes + a label in 8) = 9816.
    Down: 3 clients x (3072 + 3 classes x 8 numbers in 4 bytes) = 9504, in the RL rounds 3 x 3072 more.
    """
    assert [record["bytes_up"] for record in records(finished)] == [9816] * 4
    assert [record["bytes_down"] for record in records(finished)] == [9504, 9504, 18720, 18720]
    assert summary(finished)["bytes_up"] == 4 * 9816
    assert summary(finished)["bytes_down"] == 2 * 9504 + 2 * 18720


def test_fedlora_sends_both_towers_and_no_embedding(bench: Bench, tmp_path: Path) -> None:
    """Both ways 3 clients x 2 towers x 3072 bytes; down in the RL rounds the anchor as well."""
    run = bench.run(tmp_path / "run", "--method", "fedlora")
    assert [record["bytes_up"] for record in records(run)] == [18432] * 4
    assert [record["bytes_down"] for record in records(run)] == [18432, 18432, 36864, 36864]
    assert summary(run)["method"] == "fedlora"


def test_adapters_of_both_towers_are_written(finished: Path) -> None:
    for tower, model in (("image", "vision_model"), ("text", "text_model")):
        folder = finished / "adapter" / tower
        assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
        tensors = load_file(folder / "adapter_model.safetensors")
        assert len(tensors) == 2 * 3 * 2
        assert all(f".{model}.encoder.layers." in name for name in tensors)
        assert all(tensor.abs().max() > 0 for tensor in tensors.values())


def test_config_json_is_the_whole_experiment(bench: Bench, finished: Path) -> None:
    assert read_experiment(finished / "config.json") == bench.experiment()


def test_zero_shot_trains_nothing(bench: Bench, feddtl: Command, finished: Path) -> None:
    answer = feddtl("run", *bench.flags("--method", "zero-shot", "--output", "zero"))
    assert answer.code == 0
    assert "Zero-shot" in answer.out
    assert "FedDTL" not in answer.out
    result = summary(Path("zero"))
    assert (result["rounds"], result["best_round"], result["bytes_up"], result["bytes_down"]) == (0, 0, 0, 0)
    assert result["final"] == result["zero_shot"] == summary(finished)["zero_shot"]
    assert not Path("zero/adapter").exists()
    assert feddtl("run", "--resume", "zero").code == 0


def test_the_embedded_default_needs_no_flag_but_the_method(feddtl: Command) -> None:
    answer = feddtl("run", "--method", "zero-shot", "--data.domains", "texture", "--json")
    assert answer.code == 0
    result = json.loads(answer.out)
    assert (result["dataset"], result["model"]) == ("shapes", "tiny-clip")
    assert 15 < result["final"]["harmonic_mean"] < 80
    assert Path("runs/zero-shot-seed0/summary.json").is_file()


def test_flags_override_the_file(bench: Bench, feddtl: Command) -> None:
    Path("mine.toml").write_text(
        f"""
        model = '{bench.clip}'
        rounds = 3
        seed = 5
        [data]
        source = '{bench.photos}'
        clients = 3
        shots = 4
        """
    )
    assert feddtl("run", "mine.toml", "--rounds", "2", "--data.shots=1", "--quiet").code == 0
    run = Path("runs/mine-seed5")
    assert summary(run)["rounds"] == 2
    config = read_experiment(run / "config.json")
    assert (config.seed, config.data.shots, config.data.clients) == (5, 1, 3)


@pytest.mark.parametrize("switch", ["--quiet", "--json"])
def test_a_file_behind_a_switch_is_read(bench: Bench, feddtl: Command, switch: str) -> None:
    """A switch has no value, so the word after it is the experiment file."""
    Path("mine.toml").write_text(f"rounds = 1\nmodel = '{bench.clip}'\n[data]\nsource = '{bench.photos}'\nclients = 2")
    assert feddtl("run", switch, "mine.toml").code == 0
    assert summary(Path("runs/mine-seed0"))["clients"] == 2


def test_default_output_without_a_file(bench: Bench, feddtl: Command) -> None:
    answer = feddtl("run", *bench.flags("--rounds", 1, "--seed", 3))
    assert answer.code == 0
    assert Path("runs/feddtl-seed3/summary.json").is_file()
    said = "note: No experiment file was given: running the default experiment with your flags in runs/feddtl-seed3."
    assert answer.err.splitlines()[0] == said
    assert "No experiment file" not in feddtl("run", "--resume", "runs/feddtl-seed3").err


def test_a_file_is_not_the_default(bench: Bench, feddtl: Command) -> None:
    Path("mine.toml").write_text("rounds = 1\n[schedule]\nstages = 'sft'\n")
    answer = feddtl("run", "mine.toml", *bench.flags("--rounds", 1))
    assert answer.code == 0
    assert "No experiment file" not in answer.err


def test_json_prints_the_summary_and_nothing_else(bench: Bench, feddtl: Command) -> None:
    answer = feddtl("run", *bench.flags("--json", "--output", "run"))
    assert json.loads(answer.out) == summary(Path("run"))
    assert answer.err == ""


def test_quiet_prints_the_table_alone(bench: Bench, feddtl: Command) -> None:
    answer = feddtl("run", *bench.flags("--quiet", "--output", "run"))
    assert answer.err == ""
    assert "Zero-shot" in answer.out


def test_sft_only_is_named_in_the_table(bench: Bench, feddtl: Command) -> None:
    answer = feddtl("run", *bench.flags("--schedule.stages", "sft", "--rounds", 1, "--output", "run"))
    assert "FedDTL (SFT only)" in answer.out
    assert "after 1 round" in answer.out
    assert "after 1 rounds" not in answer.out


def test_scoring_less_often_leaves_the_training_as_it_is(bench: Bench, finished: Path, tmp_path: Path) -> None:
    seldom = bench.run(tmp_path / "seldom", "--evaluation.every", "3")
    assert [("base" in record) for record in records(seldom)] == [False, False, True, True]
    assert outcome(seldom)["state"] == outcome(finished)["state"]
    assert summary(seldom)["final"] == summary(finished)["final"]


def test_some_clients_a_round(bench: Bench, tmp_path: Path) -> None:
    run = bench.run(tmp_path / "run", "--participation", "0.5")
    assert [len(record["clients"]) for record in records(run)] == [2] * ROUNDS
    assert {client for record in records(run) for client in record["clients"]} == {0, 1, 2}


def test_accuracy_by_domain(bench: Bench, feddtl: Command, tmp_path: Path) -> None:
    for domain in ("day", "night"):
        write_photos(tmp_path / "both", domain=domain)
    flags = ["--data.source", tmp_path / "both", "--data.partition", "domain", "--data.clients", 2, "--output", "run"]
    assert feddtl("run", *bench.flags(*flags)).code == 0
    assert set(summary(Path("run"))["final_domains"]) == {"day", "night"}
    assert all(set(record["domains"]) == {"day", "night"} for record in records(Path("run")))


@pytest.mark.parametrize("domains", ["night", "day,night"])
def test_nothing_to_score_is_null_in_files_and_a_dash_on_the_screen(
    bench: Bench, feddtl: Command, tmp_path: Path, domains: str
) -> None:
    """In the domain night there is no test image of a novel class."""
    photos = write_photos(tmp_path / "both", domain="day")
    write_photos(photos, classes=CLASSES[:3], domain="night")
    write_photos(photos, classes=CLASSES[3:], test=0, domain="night")
    flags = ["--data.source", photos, "--data.domains", domains, "--data.partition", "iid", "--output", "run"]
    answer = feddtl("run", *bench.flags(*flags))
    assert answer.code == 0
    if domains == "night":
        assert summary(Path("run"))["final"]["novel"] is None
        assert "novel     –" in answer.err
    else:
        assert summary(Path("run"))["final_domains"]["night"][1] is None
    assert json.loads(feddtl("run", "--resume", "run", "--json").out)["final"] == summary(Path("run"))["final"]
    assert feddtl("evaluate", "run", "--json").code == 0


def test_interrupted_by_the_user(bench: Bench, feddtl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("feddtl.preparation.load_backbone", interrupt)
        answer = feddtl("run", *bench.flags("--output", "run"))
    assert answer.code == 130
    assert "feddtl run --resume run" in answer.err
    assert feddtl("run", "--resume", "run").code == 0
