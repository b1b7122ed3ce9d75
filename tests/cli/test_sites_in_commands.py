"""Commands on sites: what they print and write names the site, not its number."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest
import torch
from cli.small_runs import Bench, Command, refused, write_photos

from feddtl.data import sites
from feddtl.errors import DataError
from feddtl.federated_accuracy import FederatedAccuracy
from feddtl.models.activations import Activations
from feddtl.records import Summary
from feddtl.runtimes.same_clients import over_same_clients
from feddtl.system.validation import split_off_validation
from feddtl.training.client_data import ClientData
from feddtl.units import ClientNames

NAMES = ClientNames(("north", "south", "[west]"))


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """Three sites, one with a name that a table could take for markup."""
    for name, classes in (("north", ["ant", "bee"]), ("south", ["bee", "cat"]), ("[west]", ["dog"])):
        write_photos(tmp_path / "photos" / name, classes=classes, train=2, test=1)
    return ["--data.source", str(tmp_path / "photos"), "--data.partition", "sites"]


def test_partition_names_the_sites(feddtl: Command, flags: list[str], tmp_path: Path) -> None:
    answer = feddtl("partition", *flags, "--plot", tmp_path / "map.svg")
    assert answer.code == 0
    for heading in ("Images of photos by site", "┃   Site ┃"):
        assert heading in answer.out
    assert [line.split()[1] for line in answer.out.splitlines() if line.endswith("│") and "█" in line] == [
        *("[west]", "north", "south")
    ]
    assert "Classes of a single site: ant ('north'), cat ('south'), dog ('[west]')." in answer.err
    assert "local of sites '[west]', 'north' and 'south' (1–2)" in answer.err
    plot = (tmp_path / "map.svg").read_text()
    assert all(f"<!-- {name} -->" in plot for name in ("[west]", "north", "south"))
    assert "client" not in plot
    found = json.loads(feddtl("partition", *flags, "--json").out)
    assert found["sites"] == ["[west]", "north", "south"]
    assert found["images_per_client_and_class"] == [[0, 0, 0, 2], [2, 2, 0, 0], [0, 2, 2, 0]]


def test_a_run_refuses_another_number_and_writes_the_number_of_sites(
    feddtl: Command, bench: Bench, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = [*flags, "--model", str(bench.clip), "--rounds", "1", "--schedule.stages", "sft", "--output", "run"]
    refused(feddtl("run", *common, "--data.clients", 5), "data.clients = 5, but", "has 3 sites: '[west]', 'north'")
    assert not Path("run").exists()
    looks, look = [], sites.find_sites
    monkeypatch.setattr(sites, "find_sites", lambda *where: looks.append(where) or look(*where))  # type: ignore[func-returns-value]
    answer = feddtl("run", *common)
    assert (answer.code, len(looks)) == (0, 1)  # counted and read in one look
    assert "at 3 sites (few-shot, sites)" in answer.err
    config, data = (json.loads(Path("run", name).read_text()) for name in ("config.json", "data.json"))
    assert (config["data"]["clients"], data["sites"]) == (3, ["[west]", "north", "south"])
    summary = Summary.from_dict(json.loads(Path("run/summary.json").read_text()))
    assert (summary.clients, summary.partition, summary.client_names.one(1)) == (3, "sites", "site 'north'")
    assert feddtl("run", "--resume", "run", "--quiet").code == 0
    scored = json.loads(feddtl("evaluate", "run", "--json").out)
    assert list(scored[0]["sites"]) == ["[west]", "north", "south"]
    shown = feddtl("partition", *flags[:2])
    refused(shown, "looks like a folder of sites: '[west]', 'north', 'south' have splits", "add --data.partition sites")
    assert feddtl("report", "run").code == 0
    page = Path("run/report.html").read_text()
    assert "site 'north': 4" in html.unescape(page)
    assert "client 1" not in page


def test_who_is_missing_is_named() -> None:
    found = FederatedAccuracy(50.0, 0.0, 0.0, 4, 0, [0], missing=[1, 2], failures={1: "late", 2: "late"})
    assert found.coverage(NAMES) == "4 base images; sites 'south' and '[west]' missing"
    counts = {0: {"base": 1, "base_images": 2, "novel": 0, "novel_images": 0}}
    both = counts | {1: {"base": 1, "base_images": 2, "novel": 0, "novel_images": 0}}
    one, two = (
        FederatedAccuracy(50.0, 0.0, 0.0, 2 * len(c), 0, list(c), missing=m, counts=c)
        for c, m in ((both, []), (counts, [1]))
    )
    same = over_same_clients([{1: one, 2: two}], NAMES)
    assert same is not None
    assert "site 'south' (round 2" in same.caption


def test_a_site_with_a_single_image_is_named_by_client_selection() -> None:
    one = ClientData(1, Activations.of(torch.zeros(1, 1)), torch.zeros(1, dtype=torch.long))
    with pytest.raises(DataError, match="Site 'south' has 1 training image"):
        split_off_validation([one], 0.2, 0, NAMES)


def test_names_in_texts() -> None:
    assert NAMES.all_of([0]) == "site 'north'"
    assert NAMES.all_of([0, 1, 2], most=2) == "sites 'north', 'south' and 1 more"
    assert (NAMES.begin(2), NAMES.label(2), NAMES.in_column(2)) == ("Site '[west]'", "[west]", "[west]")
