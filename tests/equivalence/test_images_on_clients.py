"""Clients with images of their own and a server without any: the numbers of a run that has all images in one place."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra [flower]: make test-flower")

from cli.small_runs import CLIENTS, final_state, records, summary, write_photos
from equivalence.silos import BASE, NOVEL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from feddtl import deployment
from feddtl.config import DataConfig, EvaluationConfig, ScheduleConfig
from feddtl.errors import ClientError, DataError
from feddtl.experiment import run_experiment
from feddtl.observers import RunObserver
from feddtl.report.page import write_report
from feddtl.runs import RunFolder
from feddtl.scoring import score_run
from feddtl.trackers.tensorboard import TensorBoard

pytestmark = pytest.mark.usefixtures("fresh_clients")


class Notes(RunObserver):
    def __init__(self):
        self.lines, self.counted = [], []

    def note(self, text):
        self.lines.append(text)

    def clients_counted(self, round_number, federated):
        self.counted.append((round_number, federated.base))


def tracked(run):
    """Steps and values of the scalars in the event files, without the times."""
    events = EventAccumulator(str(run / "tensorboard"), purge_orphaned_data=False).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("seconds/")]
    return {tag: sorted((event.step, event.value) for event in events.Scalars(tag)) for tag in tags}


def headline(record):
    return {key: record[key] for key in ("local", "base", "novel", "harmonic_mean", "local_by_client")}


@pytest.mark.parametrize("method", ["feddtl", "fedlora", "fedpgp"])
def test_equal_to_a_run_with_all_images_in_one_place(silos, tmp_path, method):
    """The same images on the same clients: the same model, and accuracies over the same test images."""
    run_experiment(silos.experiment(method, central=True), tmp_path / "central")
    notes, grid = Notes(), silos.grid()
    found = deployment.serve(silos.experiment(method), tmp_path / "run", grid, observer=notes)
    here, there = ({n: t for n, t in final_state(tmp_path / run).items() if n.startswith("state/")}
                   for run in ("run", "central"))  # fmt: skip
    assert here.keys() == there.keys()
    for name, tensor in here.items():
        torch.testing.assert_close(tensor, there[name], atol=1e-5, rtol=0)
    central = summary(tmp_path / "central")
    assert list(map(headline, records(tmp_path / "run"))) == list(map(headline, records(tmp_path / "central")))
    assert found.final == central["final"]
    assert (found.federated["final"].base_images, found.federated["final"].novel_images) == (9, 9)
    assert [number for number, _ in notes.counted] == [0, 1, 2, 3]
    virtual = [[record["virtual_seconds"] for record in records(tmp_path / run)] for run in ("run", "central")]
    # FedDTL's broadcast has the texts of the three novel classes too, 8 numbers each.
    assert virtual[0] == pytest.approx(virtual[1], rel=1e-3)
    if method != "fedpgp":  # whose first context is no prompt of CLIP's
        before = found.zero_shot
        assert (before["base"], before["novel"]) == (central["zero_shot"]["base"], central["zero_shot"]["novel"])
    assert sum(message.metadata.message_type == "train" for message in grid.sent) == 3 * CLIENTS


def test_the_server_reads_no_image_and_says_so(silos, tmp_path):
    deployment.serve(silos.experiment(), tmp_path / "run", silos.grid())
    data = RunFolder.open(tmp_path / "run").data
    assert (data["base_classes"], data["novel_classes"]) == (list(BASE), list(NOVEL))
    assert (data["train_images"], data["test_base_images"], data["images_per_client_and_class"]) == (None, None, [])
    assert RunFolder.open(tmp_path / "run").predictions is None
    found = summary(tmp_path / "run")
    assert (found["dataset"], found["partition"]) == ("clients", "clients")
    assert (tmp_path / "run" / "accuracy.svg").is_file()
    write_report(tmp_path / "run", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "on the clients" in page


def test_own_models_are_scored_on_the_clients_images(silos, tmp_path):
    """Mean over the clients of their own models' accuracies, which they alone can measure; one of them is gone."""
    experiment = silos.experiment("fedpgp", evaluation=EvaluationConfig(client_models="every"))
    replies = []

    def keep(client, reply):
        replies.append(dict(reply.content.config_records["scalars"]))
        return reply

    deployment.serve(experiment, tmp_path / "run", silos.grid(after=keep))
    for record in records(tmp_path / "run"):
        own = [reply for reply in replies if reply["round"] == record["round"]]
        shares = {str(r["client"]): 100 * r["own_base"] / r["own_base_images"] for r in own}
        assert record["local_by_client"] == pytest.approx(shares)
        assert record["client_models"]["base"] == pytest.approx(np.mean(list(shares.values())))
        novel = [100 * r["own_novel"] / r["own_novel_images"] for r in own]
        assert record["client_models"]["novel"] == pytest.approx(np.mean(novel))


def test_a_client_that_refuses_is_named_and_asked_again_and_the_others_go_on(silos, tmp_path):
    """It is not waited for; in the last round its folder is mended."""
    odd, training = tmp_path / "odd", silos.folders[1] / "train"
    shutil.copytree(silos.folders[1] / "test", odd / "test")
    (image,) = [path for path in (silos.bench.photos / "train" / "dog").iterdir() if path.name == "0.png"]
    (odd / "train" / "dog").mkdir(parents=True)
    shutil.copy(image, odd / "train" / "dog")

    def mend(client, message):
        if message.content.config_records["scalars"]["round"] == 2:
            shutil.copytree(training, odd / "train", dirs_exist_ok=True)

    grid = silos.grid(data={**silos.folders, 1: odd}, before=mend)
    deployment.serve(silos.experiment(), tmp_path / "run", grid)
    first, second, third = records(tmp_path / "run")
    for record in (first, second):
        assert record["lost"] == [1]
        assert f"{odd} has no training images of a base class" in record["failures"]["1"]
    assert third["lost"] == []
    assert (first["federated"]["clients"], second["federated"]["clients"]) == ([0, 2], [0, 1, 2])


def told(grid) -> list[str]:
    """Why the run has ended, as each client is told; no message to a client names another one's folder."""
    folders = [str(context.node_config.get("data", "")) for context in grid.contexts.values()]
    for message in grid.sent:
        assert not [folder for folder in folders if folder and folder in repr(message.content)]
    scalars = [message.content.config_records.get("scalars", {}) for message in grid.sent]
    return [str(found["farewell"]) for found in scalars if "farewell" in found]


def test_a_class_that_the_experiment_does_not_have_is_an_error_at_the_start(silos, tmp_path):
    """All such clients at once, with the folder and the class of each: they would be missing in the whole run."""
    odd = {client: tmp_path / f"odd{client}" for client in (1, 2)}
    write_photos(tmp_path / "more", classes=["gnu"], train=1, test=0)
    for client, folder in odd.items():
        shutil.copytree(silos.folders[client], folder)
        shutil.copytree(tmp_path / "more" / "train" / "gnu", folder / "train" / "gnu")
    grid = silos.grid(data={**silos.folders, **odd})
    with pytest.raises(ClientError, match="2 clients cannot participate, so no round was begun") as caught:
        deployment.serve(silos.experiment(), tmp_path / "run", grid)
    for client, folder in odd.items():
        assert f"Client {client}: the client refused: {folder} has images of 'gnu', which" in caught.value.message
    assert set(told(grid)) == {
        "The classes of client 1 and client 2 are not those of the experiment, so no round was begun."
    }
    assert records(tmp_path / "run") == []


COMPOSED, DECOMPOSED = "\u00e9lan", "e\u0301lan"


def renamed(folder: Path, old: str, new: str) -> Path:
    for split in ("train", "test"):
        if (folder / split / old).is_dir():
            (folder / split / old).rename(folder / split / new)
    return folder


def test_names_in_another_unicode_form_are_the_same_class_over_flower(silos, tmp_path):
    """As folders that came from another operating system have them, at a client with a folder of its own."""
    own = {
        client: renamed(shutil.copytree(folder, tmp_path / f"silo{client}"), "ant", DECOMPOSED)
        for client, folder in silos.folders.items()
    }
    data = DataConfig(source="clients", classes=f"{COMPOSED},bee,cat", novel_classes="dog,elk,fox", clients=CLIENTS)
    experiment = silos.experiment("fedlora", rounds=1, schedule=ScheduleConfig(stages="sft"), data=data)
    deployment.serve(experiment, tmp_path / "run", silos.grid(data=own))
    assert records(tmp_path / "run")[0]["lost"] == []


def with_copies(silos, tmp_path, here: str, there: str):
    """A run on a data set in one place, of which client 1 has a copy; the class 'ant' has these two names."""
    mine = renamed(shutil.copytree(silos.bench.photos, tmp_path / "photos"), "ant", here)
    copy = renamed(shutil.copytree(silos.bench.photos, tmp_path / "copies" / "photos"), "ant", there)
    data = DataConfig(source=str(mine), clients=CLIENTS)
    grid = silos.grid(data={client: copy if client == 1 else mine for client in range(CLIENTS)})
    deployment.serve(
        silos.experiment("fedlora", rounds=1, schedule=ScheduleConfig(stages="sft"), data=data), tmp_path / "run", grid
    )
    return copy


def test_a_copy_of_the_data_with_names_in_another_unicode_form_is_the_same(silos, tmp_path):
    """By code points one form is the last of the classes, the other among the first."""
    with_copies(silos, tmp_path, COMPOSED, DECOMPOSED)
    assert records(tmp_path / "run")[0]["lost"] == []


def test_a_copy_of_the_data_with_another_class_is_an_error_at_the_start(silos, tmp_path):
    reason = r"1 client cannot .* Client 1: .*copies/photos does not have the base classes .* lacks 'ant' and has 'axe'"
    with pytest.raises(ClientError, match=reason):
        with_copies(silos, tmp_path, "ant", "axe")


def test_a_client_that_is_not_told_where_its_images_are(silos, tmp_path):
    grid = silos.grid(data={2: silos.folders[2]})
    with pytest.raises(ClientError, match="Round 1 has 1 usable updates of 3") as caught:
        deployment.serve(silos.experiment(), tmp_path / "run", grid)
    assert set(told(grid)) == {"Round 1 had no usable update of clients 0 and 1, and with 1 of 3 it was discarded."}
    assert caught.value.message.count("This client has no path to its images") == 2
    assert "feddtl client --data PATH" in caught.value.message


def test_what_a_client_has_is_what_its_replies_must_count(silos, tmp_path):
    """Counts of other images than those it said it has are rejected, in round 2 those of client 0."""

    def tamper(client, reply):
        scalars = reply.content.config_records["scalars"]
        if client == 0 and scalars["round"] == 2:
            scalars["global_novel_images"] = 1000
        return reply

    deployment.serve(silos.experiment(), tmp_path / "run", silos.grid(after=tamper))
    first, second, _ = records(tmp_path / "run")
    assert second["failures"] == {"0": "global_novel_images is 1000, not 3."}
    assert (first["federated"]["clients"], first["federated"]["base_images"]) == ([1, 2], 6)
    assert first["base"] == first["federated"]["base"]


def test_resumed_between_rounds_the_last_record_gets_its_scores(silos, tmp_path):
    """Killed in round 3: record 2 has no base accuracy yet. Resumed, all is as if nothing had happened."""

    def kill(client, message):
        if message.content.config_records["scalars"]["round"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deployment.serve(silos.experiment(), tmp_path / "run", silos.grid(before=kill))
    assert ["base" in record for record in records(tmp_path / "run")] == [True, False]
    [again, first] = (TensorBoard(tmp_path / name) for name in ("run", "whole"))
    found = deployment.serve(silos.experiment(), tmp_path / "run", silos.grid(), resume=True, observer=again)
    whole = deployment.serve(silos.experiment(), tmp_path / "whole", silos.grid(), observer=first)
    assert records(tmp_path / "run") == records(tmp_path / "whole")
    assert tracked(tmp_path / "run") == tracked(tmp_path / "whole")
    assert [step for step, _ in tracked(tmp_path / "run")["base"]] == [0, 1, 2, 3]
    assert (found.final, found.zero_shot) == (whole.final, whole.zero_shot)


def test_without_an_answer_to_the_closing_evaluation_the_last_round_has_no_accuracy(silos, tmp_path):
    found = deployment.serve(silos.experiment(), tmp_path / "run", silos.grid(closing=lambda client, reply: None))
    last = records(tmp_path / "run")[-1]
    assert (last["base"], last["federated"]["clients"]) == (None, [])
    assert set(last["federated"]["failures"]) == {"0", "1", "2"}
    assert (found.final["base"], found.best_round) == (None, found.best_round)
    assert found.best_round in (1, 2)


def test_zero_shot_is_scored_by_the_clients_alone(silos, tmp_path):
    grid = silos.grid()
    found = deployment.serve(silos.experiment("zero-shot"), tmp_path / "run", grid)
    central = run_experiment(silos.experiment("zero-shot", central=True), tmp_path / "central")
    assert (found.zero_shot["base"], found.zero_shot["novel"]) == (
        central.zero_shot["base"],
        central.zero_shot["novel"],
    )
    assert {message.metadata.message_type for message in grid.sent} == {"query", "evaluate"}


def test_in_one_process_there_are_no_images(silos, tmp_path):
    with pytest.raises(DataError, match="each client has its own images") as caught:
        run_experiment(silos.experiment(), tmp_path / "run")
    assert "feddtl submit" in caught.value.hint
    assert not (tmp_path / "run").exists()


def test_other_sources_are_looked_for_where_the_node_says(silos, tmp_path):
    """The experiment names a folder that the clients do not have; each has a copy of its own."""
    copy = shutil.copytree(silos.bench.photos, tmp_path / "copy")
    there = shutil.copytree(silos.bench.photos, tmp_path / "there")
    data = DataConfig(source=str(there), clients=CLIENTS, class_split="half")

    def remove(client, message):
        shutil.rmtree(there, ignore_errors=True)

    grid = silos.grid(data=dict.fromkeys(range(CLIENTS), copy), before=remove)
    deployment.serve(silos.experiment(data=data), tmp_path / "run", grid)
    run_experiment(silos.experiment(central=True), tmp_path / "central")
    assert list(map(headline, records(tmp_path / "run"))) == list(map(headline, records(tmp_path / "central")))


def test_other_images_are_scored_under_the_run_s_own_class_names(silos, tmp_path):
    """A silo has one base and one novel class; its own alphabetical halves would be one class each."""
    deployment.serve(silos.experiment("fedlora"), tmp_path / "run", silos.grid())
    notes = []
    scores = score_run(tmp_path / "run", DataConfig(source=str(silos.folders[0])), note=notes.append)
    assert [(score.classes, score.choices, score.images) for score in scores] == [
        ("base", 3, 3),
        ("novel", 3, 3),
        ("all", 6, 6),
    ]
    shutil.copytree(silos.folders[0], tmp_path / "odd")
    [mine] = (tmp_path / "odd" / "train").iterdir()
    mine.rename(mine.with_name("stranger"))
    base, novel, _ = score_run(tmp_path / "run", DataConfig(source=str(tmp_path / "odd")), note=notes.append)
    assert "stranger" not in base.by_class
    assert "stranger" in novel.by_class
    assert "1 of the 3 classes of odd were trained in this run" in "".join(notes)
