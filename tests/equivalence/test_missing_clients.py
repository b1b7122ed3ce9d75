"""Runs whose clients alone have test images, and one of which is away for a while: what the numbers are of."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr", reason="needs the extra [flower]: make test-flower")

from cli.small_runs import records, summary
from edited_runs import change
from equivalence.silos import Silos
from report.pages import parse, rows

from feddtl import deployment
from feddtl.cli.run_result import missing_lines
from feddtl.records import Summary
from feddtl.report.missing import without_folders
from feddtl.report.page import write_report

pytestmark = pytest.mark.usefixtures("fresh_clients")

GONE = 2
LATE = "no reply within 0.2 seconds (deployment.round_timeout)."


def away(silos: Silos, *rounds: int, closing: bool = False):
    """Client 2 answers nothing in these rounds, nor in the closing evaluation."""

    def lose(client, reply):
        return None if client == GONE and reply.content.config_records["scalars"]["round"] in rounds else reply

    return silos.grid(
        after=lose, closing=(lambda client, reply: None if client == GONE else reply) if closing else None
    )


def test_a_round_that_lost_a_client_says_of_how_many_images_it_is(silos, tmp_path):
    """Round 2 lacks client 2, whose reply in it would have scored the model after round 1."""
    found = deployment.serve(silos.experiment(), tmp_path / "run", away(silos, 2))
    first, second, third = (record["federated"] for record in records(tmp_path / "run"))
    assert (first["base_images"], first["all_base_images"], first["novel_images"], first["all_novel_images"]) == (
        *(6, 9),
        *(6, 9),
    )
    assert (first["clients"], first["missing"], first["failures"]) == ([0, 1], [2], {"2": LATE})
    assert first["counts"].keys() == {"0", "1"}
    assert sum(counts["base"] for counts in first["counts"].values()) == round(first["base"] * 6 / 100)
    for complete in (second, third):
        assert (complete["base_images"], complete["clients"]) == (9, [0, 1, 2])
        assert not complete.keys() & {"missing", "all_base_images", "failures"}
    assert found.missing_clients == {2: [1]}
    assert summary(tmp_path / "run")["missing_clients"] == {"2": [1]}
    assert missing_lines(found) == ["missing when the clients scored the model: client 2: round 1"]


def test_the_last_round_without_a_client_is_labelled(silos, tmp_path):
    found = deployment.serve(silos.experiment(), tmp_path / "run", away(silos, 3, closing=True))
    final = summary(tmp_path / "run")["federated"]["final"]
    assert (final["base_images"], final["all_base_images"], final["missing"]) == (6, 9, [2])
    assert found.final["base"] == final["base"], "the number stays what it is"
    assert found.local_clients == [0, 1]
    assert found.best_round == 1, "rounds 2 and 3 are of fewer images"
    assert missing_lines(Summary.from_dict(summary(tmp_path / "run"))) == [
        "base, novel and HM after round 3: 6 of 9 base and 6 of 9 novel images; client 2 missing",
        f"  client 2: {LATE}",
        "missing when the clients scored the model: client 2: rounds 2–3",
        "local: mean over clients 0 and 1 of 3 clients",
    ]


def test_images_of_a_client_that_never_came_are_unknown(silos, tmp_path):
    found = deployment.serve(silos.experiment(), tmp_path / "run", silos.grid((0, 1)))
    for record in records(tmp_path / "run"):
        assert record["federated"]["missing"] == [2]
        assert "all_base_images" not in record["federated"]
    assert missing_lines(found)[0] == "base, novel and HM before training: 6 base and 6 novel images; client 2 missing"
    assert found.missing_clients == {2: [0, 1, 2, 3]}


def test_where_everyone_answers_nothing_is_said(silos, tmp_path):
    found = deployment.serve(silos.experiment(), tmp_path / "run", silos.grid())
    assert missing_lines(found) == []
    assert found.missing_clients is None
    assert all("missing" not in record["federated"] for record in records(tmp_path / "run"))


def values(page, title):
    """Rounds and numbers that a figure's description gives for the first and last point."""
    [figure] = [f for f in page.all("figure") if f.all("h4")[0].text == title]
    return figure.all("svg", role="img")[0].attributes["aria-label"], figure.text


def test_the_page_compares_the_same_clients_in_all_rounds(silos, tmp_path):
    """The number as counted changes with the images; over clients 0 and 1 alone it is another number."""
    deployment.serve(silos.experiment(), tmp_path / "run", away(silos, 3, closing=True))
    page = parse(write_report(tmp_path / "run", tmp_path / "page.html").path)
    lines = records(tmp_path / "run")
    hits = [sum(counts["base"] for c, counts in line["federated"]["counts"].items() if c != "2") for line in lines]
    described, caption = values(page, "Base")
    assert f"FedDTL: {100 * hits[0] / 6:.4g} in round 1, {100 * hits[-1] / 6:.4g} in round 3" in described
    assert "Over 6 of 9 base and 6 of 9 novel images of clients 0 and 1, which scored every round." in caption
    assert "Missing: client 2 (rounds 2–3: no reply within 0.2 seconds (deployment.round_timeout))." in caption
    assert "One of 6 base images is 16.7 points." in caption
    assert "Mean over clients 0 and 1, whose models arrived in every round." in values(page, "Local")[1]
    final = rows(page, "Accuracy in % after the last round")
    label = "FedDTL (of 6 of 9 base and 6 of 9 novel images; client 2 missing)"
    assert final[label][1] == f"{lines[-1]['base']:.1f}"
    counted = rows(page, "Accuracy in % as counted after each round of run")
    assert counted["1"][:1] + counted["1"][3:] == [f"{lines[0]['base']:.1f}", "9 base and 9 novel images", "nobody"]
    assert counted["3"][3:] == [
        "6 of 9 base and 6 of 9 novel images",
        "client 2: no reply within 0.2 seconds (deployment.round_timeout)",
    ]


def test_where_few_clients_scored_every_round_the_others_are_hollow(silos, tmp_path):
    """Client 1 misses round 1 and client 2 round 3: 3 of 9 images are left, too few to stand for all."""

    def lose(client, reply):
        number = reply.content.config_records["scalars"]["round"]
        return None if (client, number) in ((1, 1), (2, 3)) else reply

    deployment.serve(silos.experiment(), tmp_path / "run", silos.grid(after=lose))
    page = parse(write_report(tmp_path / "run", tmp_path / "page.html").path)
    lines = records(tmp_path / "run")
    described, caption = values(page, "Base")
    assert f"{lines[0]['base']:.4g} in round 1, {lines[-1]['base']:.4g} in round 3" in described
    assert "Hollow points are of fewer images, because clients were missing." in caption
    assert "client 1 (before training: no reply" in caption
    assert "Zero-shot (of 6 of 9 base and 6 of 9 novel images; client 1 missing)" in rows(page, "Accuracy in % after")


def test_a_run_of_an_earlier_version_has_marks(silos, tmp_path):
    """Its records say who scored, and nothing more: rounds of fewer clients than others are hollow."""
    deployment.serve(silos.experiment(), tmp_path / "run", away(silos, 2))
    metrics = tmp_path / "run" / "metrics.jsonl"
    for key in ("counts", "missing", "all_base_images", "all_novel_images", "failures"):
        change(metrics, lambda line, key=key: line["federated"].pop(key, None))
    page = parse(write_report(tmp_path / "run", tmp_path / "page.html").path)
    assert "Hollow points are of fewer images, because clients were missing." in values(page, "Base")[1]
    assert "client 2 (round 1: no reason recorded)" in values(page, "Base")[1]


def test_where_the_server_has_test_images_base_and_novel_are_of_all(silos, tmp_path):
    """A client that is away changes the local mean and the clients' own count alone, and both say so."""

    def lose(client, reply):
        return None if client == GONE and reply.content.config_records["scalars"]["round"] == 2 else reply

    grid = silos.grid(data={}, after=lose, closing=lambda client, reply: None if client == GONE else reply)
    found = deployment.serve(silos.experiment(central=True), tmp_path / "run", grid)
    assert "missing" not in records(tmp_path / "run")[0]["federated"]
    assert found.missing_clients is None
    assert missing_lines(found)[:2] == [
        "on clients' test images after round 3: 6 base images; client 2 missing",
        f"  client 2: {LATE}",
    ]
    page = parse(write_report(tmp_path / "run", tmp_path / "page.html").path)
    assert "FedDTL" in rows(page, "Accuracy in % after the last round")
    assert values(page, "Base")[1].count("missing") == 0
    assert "hollow where some were lost" in values(page, "Local")[1]


def test_paths_of_a_client_do_not_reach_the_page(silos):
    text = "The class folders of /home/ann/private/test contain no images; see https://example.org/a/b."
    assert without_folders(text) == "The class folders of test contain no images; see https://example.org/a/b."
